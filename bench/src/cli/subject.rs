//! The flags that say which servers are driven, the same for every protocol. What `--compare` may name is the protocol's,
//! and belongs to the group [`SubjectArgs::GROUP`] as well.

use std::path::PathBuf;

use clap::Args;
use longtail_model::Durability;

/// Which servers.
#[derive(Args, Clone, Debug)]
pub(crate) struct SubjectArgs {
    /// A running server.
    #[arg(long, value_name = "HOST:PORT", group = SubjectArgs::GROUP)]
    pub(crate) target: Option<String>,
    /// A second running server: each round is run on both in turn.
    #[arg(long, value_name = "HOST:PORT", requires = "target")]
    pub(crate) peer: Option<String>,
    /// With --compare: run the peers without Longtail.
    #[arg(long)]
    pub(crate) peer_only: bool,
    /// With --compare: run Longtail without the peers, for what would take them too long.
    #[arg(long, conflicts_with = "peer_only")]
    pub(crate) own_only: bool,
    /// With --compare: the command that starts Longtail, with {data}, {port} and {durability} in it. Default: this
    /// program.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) own: Option<String>,
    /// With --compare: what an acknowledgement should mean; repeat or separate by commas. Default: memory and sync, for
    /// beanstalk interval as well. With --target: a note for the report.
    #[arg(long, value_delimiter = ',')]
    pub(crate) durability: Vec<Durability>,
    /// With --compare: where the servers' data goes. Default: the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Process of the target, if it cannot be found from the port.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Process of the peer, if it cannot be found from the port.
    #[arg(long)]
    pub(crate) peer_pid: Option<u32>,
}

impl SubjectArgs {
    /// Of `--target` and `--compare`, exactly one is given.
    pub(crate) const GROUP: &str = "subject";
}
