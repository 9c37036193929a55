"""A certificate for this machine that signs itself, for servers that a case starts."""

import pathlib
import shutil
import subprocess
import tempfile


def certify(t, subject="/CN=localhost"):
    """Files with a key and its certificate for `localhost`, which end with the case. The subject may say more."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-certificate-"))
    t.defer(lambda: shutil.rmtree(home, ignore_errors=True))
    key, certificate = home / "key.pem", home / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-utf8", "-subj", subject, "-addext", "subjectAltName=DNS:localhost", "-addext",
         "basicConstraints=critical,CA:FALSE"],
        check=True, stderr=subprocess.DEVNULL,
    )
    return key, certificate
