//! A client at the door: CONNECT and authentication, where hooks have a say before the listener's own admission.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use longtail_broker::auth::{AccountLimits, Principal};
use longtail_edge::{CloseReason, Connection};

use super::chain::Chain;
use super::verdict::{Decision, Outcome, Verdict};
use super::{Asking, Connecting, Permission, Points, Proof, Wish};
use crate::access::{Admitted, Denied};
use crate::codec::ReasonCode;
use crate::message::qos;
use crate::service::Mqtt;
use crate::session::Demand;

/// Checks a login: by hooks, then by [`Mqtt::login`].
pub(crate) fn login(service: &Mqtt, conn: &Arc<Connection<Mqtt>>, mut demand: Demand) {
    let chain = service.chain();
    if chain.wants(Points::CONNECT) && !connect(service, conn, &mut demand) {
        return;
    }
    if !chain.wants(Points::AUTHENTICATE | Points::PERMIT) {
        service.login(conn, demand);
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        // Connections live on the edge's workers, which have one.
        tracing::error!("no runtime to wait for a hook's decision");
        service.refuse(conn, ReasonCode::ServerUnavailable);
        return;
    };
    let (service, conn) = (Arc::clone(conn.protocol()), Arc::clone(conn));
    runtime.spawn(async move {
        let Some(client_id) = client_id(&conn) else {
            return;
        };
        let proof = Proof {
            client_id: Arc::clone(&client_id),
            username: demand.username.clone(),
            password: demand.password.clone(),
            remote: conn.peer().clone(),
            identity: conn.identity().cloned(),
            listener: service.chain().listener(),
        };
        let decision = authenticate(service.chain(), &proof).await;
        if !matches!(decision, Decision::Deny(_)) && !may_leave_will(&service, &conn, &proof).await
        {
            let (reason, why) = (
                ReasonCode::NotAuthorized,
                "the will is denied by a hook".to_owned(),
            );
            return service.decided(&conn, &client_id, Err(Denied { reason, why }));
        }
        match decision {
            Decision::Next => service.login(&conn, demand),
            Decision::Admit { account, grants } => {
                let admitted = Admitted {
                    grants,
                    principal: account.map(Principal::named),
                    expires: None,
                    limits: AccountLimits::default(),
                };
                service.decided(&conn, &client_id, Ok(admitted));
            }
            Decision::Deny(reason) => {
                let why = "denied by a hook".to_owned();
                service.decided(&conn, &client_id, Err(Denied { reason, why }));
            }
        }
    });
}

fn client_id(conn: &Connection<Mqtt>) -> Option<Arc<str>> {
    let id = conn.with(|client, _| {
        let session = client.session_mut()?;
        Some(Arc::clone(session.client_id()))
    });
    id.flatten()
}

/// Whether hooks permit the client its will, if it has one.
async fn may_leave_will(service: &Mqtt, conn: &Arc<Connection<Mqtt>>, proof: &Proof) -> bool {
    if !service.chain().wants(Points::PERMIT) {
        return true;
    }
    let wish = conn.with(|client, _| {
        let will = client.session()?.will()?;
        Some(Wish {
            publish: true,
            topic: will.message.subject.as_str().into(),
            qos: qos(will.message.quality),
            retain: will.message.retain,
        })
    });
    let Some(wish) = wish.flatten() else {
        return true;
    };
    let asking = Asking {
        client_id: Arc::clone(&proof.client_id),
        username: proof.username.as_deref().map(Arc::from),
        remote: proof.remote.clone(),
        wish,
    };
    let (permission, _) = service.chain().permit(&asking).await;
    permission != Permission::Deny
}

/// Whether the client may go on.
fn connect(service: &Mqtt, conn: &Arc<Connection<Mqtt>>, demand: &mut Demand) -> bool {
    let hello = conn.with(|client, _| Some(client.session_mut()?.hello().clone()));
    let Some(hello) = hello.flatten() else {
        return false;
    };
    let connecting = Connecting {
        client_id: hello.client_id,
        version: hello.version,
        clean_start: hello.clean_start,
        keep_alive_s: hello.keep_alive_s,
        session_expiry_s: hello.expiry_s,
        username: demand.username.clone(),
        remote: conn.peer().clone(),
        listener: service.chain().listener(),
    };
    let careful = || Verdict::Reject(ReasonCode::ImplementationSpecificError);
    let mut shown = connecting;
    let outcome = service.chain().fold(Points::CONNECT, careful, |hook, _| {
        let verdict = hook.connect(&shown);
        if let Verdict::Replace(change) = &verdict {
            if let Some(id) = &change.client_id {
                shown.client_id = Arc::clone(id);
            }
            shown.keep_alive_s = change.keep_alive_s.unwrap_or(shown.keep_alive_s);
            let expiry_s = change.session_expiry_s;
            shown.session_expiry_s = expiry_s.unwrap_or(shown.session_expiry_s);
            if change.username.is_some() {
                shown.username.clone_from(&change.username);
            }
        }
        verdict
    });
    match outcome {
        Outcome::AsItWas => true,
        // What all of them have changed is in what the last was shown.
        Outcome::Changed(_) => {
            demand.username = shown.username;
            let limits = service.limits();
            let amended = conn.with(|client, _| {
                let session = client.session_mut()?;
                session.amend(
                    &shown.client_id,
                    shown.keep_alive_s,
                    shown.session_expiry_s,
                    limits,
                );
                Some(())
            });
            amended.flatten().is_some()
        }
        Outcome::Rejected(reason) | Outcome::Disconnected(reason) => {
            service.refuse(conn, reason);
            false
        }
        Outcome::Ignored => {
            conn.close(CloseReason::Refused("by a hook".into()));
            false
        }
    }
}

/// What the hooks say of a client: the first that decides.
async fn authenticate(chain: &Arc<Chain>, proof: &Proof) -> Decision {
    for entry in chain.entries(Points::AUTHENTICATE) {
        let hook = &*entry.hook;
        // The call makes the future, and may panic as well as the future may.
        let asked = AssertUnwindSafe(async { hook.authenticate(proof).await }).catch_unwind();
        match tokio::time::timeout(hook.authenticate_within(), asked).await {
            Ok(Ok(Decision::Next)) => {}
            Ok(Ok(decided)) => return decided,
            Ok(Err(_panic)) => {
                chain.panicked(hook);
                return Decision::Deny(ReasonCode::UnspecifiedError);
            }
            Err(_elapsed) => {
                tracing::warn!(hook = hook.name(), client = %proof.client_id, "a hook took too long to authenticate a client");
                return Decision::Deny(ReasonCode::ServerUnavailable);
            }
        }
    }
    Decision::Next
}
