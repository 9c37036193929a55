//! Closed by default: without accounts, nobody but this machine may reach a listener.

use crate::address::Address;

/// Whether clients have to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// At least one account is configured, and clients have to use one.
    Configured,
    /// Anybody who can connect may do anything.
    Absent,
}

/// Decides whether an address may be bound.
#[derive(Clone, Copy, Debug)]
pub struct Exposure {
    accounts: Accounts,
}

/// The address would let other machines in without an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to listen on {address}: no accounts are configured, so that every machine that reaches this address could \
     use the broker; configure accounts, or listen on 127.0.0.1, [::1] or a unix: path"
)]
pub struct Exposed {
    /// The address that was refused.
    pub address: Address,
}

impl Exposure {
    /// The rule for a server with or without accounts.
    #[must_use]
    pub const fn new(accounts: Accounts) -> Self {
        Exposure { accounts }
    }

    /// Checks one address.
    ///
    /// # Errors
    /// [`Exposed`] when other machines could reach the address and no accounts are configured.
    pub fn check(self, address: &Address) -> Result<(), Exposed> {
        match self.accounts {
            Accounts::Configured => Ok(()),
            Accounts::Absent if address.is_local() => Ok(()),
            Accounts::Absent => Err(Exposed {
                address: address.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_accounts_only_local_addresses_pass() {
        let closed = Exposure::new(Accounts::Absent);
        assert!(closed.check(&"127.0.0.1:0".parse().unwrap()).is_ok());
        assert!(closed.check(&"unix:/tmp/x".parse().unwrap()).is_ok());
        let error = closed.check(&"0.0.0.0:11300".parse().unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("0.0.0.0:11300")
                && error.to_string().contains("configure accounts")
        );
        assert!(
            Exposure::new(Accounts::Configured)
                .check(&error.address)
                .is_ok()
        );
    }
}
