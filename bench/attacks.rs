//! What the scenes of attacks share: the service under attack, open-loop load, bodies by recipe, and what requests cost.

pub(crate) mod body;
pub(crate) mod corpus;
pub(crate) mod cost;
pub(crate) mod load;
pub(crate) mod mutate;
pub(crate) mod process;
pub(crate) mod rank;
pub(crate) mod route;
pub(crate) mod target;

use std::path::PathBuf;

use clap::Args;

/// Options of the scenes of attacks alone.
#[derive(Args)]
pub(crate) struct AttackOptions {
    /// The service under attack; the one just built where not set.
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// The service that a lone tenant's throughput is compared with, in the scene tenants.
    #[arg(long)]
    pub(crate) peer_binary: Option<PathBuf>,
    /// Attack requests a second of the scene strangers.
    #[arg(long, default_value_t = 200.0)]
    pub(crate) rate: f64,
    /// The worst bodies shown or sent: for each route, and in the scene worst-bodies for each size.
    #[arg(long, default_value_t = 1)]
    pub(crate) worst: usize,
    /// Sizes of bodies, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 10, 4 << 10, 16 << 10, 64 << 10])]
    pub(crate) sizes: Vec<usize>,
    /// Routes under attack, by path; all where none is named.
    #[arg(long, value_delimiter = ',')]
    pub(crate) route: Vec<String>,
    /// Adds the mutants that cost more than every known body to the corpus.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Sockets of each kind in the scene sockets.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) sockets: usize,
    /// The service's soft limit of descriptors in the scene sockets.
    #[arg(long, default_value_t = 1_024)]
    pub(crate) nofile: u32,
    /// Kinds of sockets, by name; all where none is named.
    #[arg(long, value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
}
