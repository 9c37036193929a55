//! The loop: make an input, run the target, keep the input when it did something new.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::mutate::{Random, mutate};

/// An input that runs longer than this is a fault.
const INPUT_LIMIT: Duration = Duration::from_secs(10);

/// Inputs kept in memory at most; beyond, the new one replaces a random one.
const KEPT_MAX: usize = 20_000;

/// The input under way and when it began: for the watchdog.
static CURRENT: Mutex<Option<(Instant, Vec<u8>)>> = Mutex::new(None);

/// What the panic hook heard last.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Where everything is.
struct Options {
    seconds: u64,
    seed: u64,
    corpus: Option<PathBuf>,
    dictionary: Option<PathBuf>,
    artifacts: PathBuf,
    replay: Vec<PathBuf>,
}

/// Runs a target as the command line says: `--seconds N`, `--seed N`, `--corpus DIR`, `--dictionary FILE`,
/// `--artifacts DIR`, or files to run once each.
pub fn main(target: impl Fn(&[u8])) -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(|info| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let artifacts = options.artifacts.clone();
    std::thread::spawn(move || watch(&artifacts));
    match run(&target, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse() -> Result<Options, String> {
        let mut options = Options {
            seconds: 10,
            seed: 1,
            corpus: None,
            dictionary: None,
            artifacts: PathBuf::from("."),
            replay: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.replay.push(word.into());
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            let number = || {
                value
                    .parse()
                    .map_err(|_| format!("{word} needs a number, not {value:?}"))
            };
            match word.as_str() {
                "--seconds" => options.seconds = number()?,
                "--seed" => options.seed = number()?,
                "--corpus" => options.corpus = Some(value.into()),
                "--dictionary" => options.dictionary = Some(value.into()),
                "--artifacts" => options.artifacts = value.into(),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }
}

fn run(target: &impl Fn(&[u8]), options: &Options) -> Result<(), String> {
    for file in &options.replay {
        let input = std::fs::read(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        attempt(target, &input, &options.artifacts)?;
        println!("ok {}", file.display());
    }
    if !options.replay.is_empty() {
        return Ok(());
    }
    let mut coverage = Coverage::new();
    if coverage.edges() == 0 {
        return Err(
            "built without the coverage pass; `cargo xtask fuzz` builds with it".to_owned(),
        );
    }
    let words = words(options.dictionary.as_deref())?;
    let mut kept = vec![Vec::new()];
    kept.extend(inputs(options.corpus.as_deref())?);
    let given = kept.len() - 1;
    for input in &kept {
        coverage.clear();
        attempt(target, input, &options.artifacts)?;
        coverage.absorb();
    }
    let mut random = Random(options.seed);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut runs = kept.len();
    while Instant::now() < end {
        let mut input = kept[random.below(kept.len())].clone();
        mutate(
            &mut input,
            &kept[random.below(kept.len())],
            &words,
            &mut random,
        );
        coverage.clear();
        attempt(target, &input, &options.artifacts)?;
        runs += 1;
        if coverage.absorb() {
            if kept.len() < KEPT_MAX {
                kept.push(input);
            } else {
                let place = random.below(kept.len());
                kept[place] = input;
            }
        }
    }
    println!(
        "{runs} runs from {given} given inputs, {} of {} edges, {} inputs kept, seed {}",
        coverage.taken(),
        coverage.edges(),
        kept.len(),
        options.seed
    );
    Ok(())
}

/// Runs the target once; a panic becomes a file and an error.
fn attempt(target: &impl Fn(&[u8]), input: &[u8], artifacts: &Path) -> Result<(), String> {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((Instant::now(), input.to_vec()));
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = None;
    outcome.map_err(|_| {
        let what = PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
        format!("{what}\nthe input is {}", save(input, artifacts, "panic"))
    })
}

/// Ends the process when one input takes too long.
fn watch(artifacts: &Path) {
    loop {
        std::thread::sleep(INPUT_LIMIT / 10);
        let current = CURRENT
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((_, input)) = current.filter(|(start, _)| start.elapsed() > INPUT_LIMIT) {
            println!(
                "an input runs for more than {INPUT_LIMIT:?}: {}",
                save(&input, artifacts, "slow")
            );
            // Ends this process even if the output is gone.
            let _ = std::io::stdout().flush();
            std::process::exit(1);
        }
    }
}

fn save(input: &[u8], artifacts: &Path, kind: &str) -> String {
    // FNV-1a: a name that is the same for the same input.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = artifacts.join(format!("{kind}-{hash:016x}"));
    let saved = std::fs::create_dir_all(artifacts).and_then(|()| std::fs::write(&path, input));
    match saved {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("{} (not saved: {error})", input.escape_ascii()),
    }
}

fn inputs(corpus: Option<&Path>) -> Result<Vec<Vec<u8>>, String> {
    let Some(corpus) = corpus.filter(|corpus| corpus.exists()) else {
        return Ok(Vec::new());
    };
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", corpus.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(corpus).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    // The order of a directory is no order; with this one a seed means the same everywhere.
    files.sort();
    files
        .iter()
        .filter(|file| file.is_file())
        .map(|file| std::fs::read(file).map_err(failed))
        .collect()
}

/// The words of a dictionary: a line each, with the escapes of a byte string.
fn words(dictionary: Option<&Path>) -> Result<Vec<Vec<u8>>, String> {
    let Some(dictionary) = dictionary.filter(|dictionary| dictionary.exists()) else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(dictionary)
        .map_err(|error| format!("cannot read {}: {error}", dictionary.display()))?;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(unescape)
        .collect()
}

fn unescape(line: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = line.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                let byte = u8::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 2);
                byte.ok_or_else(|| format!("bad escape in {line:?}"))?
            }
            _ => return Err(format!("bad escape in {line:?}")),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn words_have_escapes() {
        assert_eq!(
            unescape(r"put 1\r\n\0\xff\\"),
            Ok(b"put 1\r\n\0\xff\\".to_vec())
        );
        assert!(unescape(r"\x1").is_err() && unescape(r"\q").is_err() && unescape("\\").is_err());
    }
}
