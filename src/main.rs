//! Parses the command line and hands over.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    cxone_data_action::cli::run().await
}
