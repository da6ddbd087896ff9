//! `config check` and `config print`.

use clap::Subcommand;

use super::{Settings, say};
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum Step {
    /// Say whether `serve` would take the settings; every bad one is named.
    Check,
    /// Print every setting as it would be used, secrets masked.
    Print,
}

pub(super) fn run(settings: &Settings, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Check => {
            Config::load_for_serving(&settings.flags())?;
            say("the settings are good");
        }
        Step::Print => {
            let config = settings.load()?;
            for setting in &config.effective {
                match &setting.value {
                    Some(value) => say(format_args!("{} = {}", setting.name, toml::Value::from(value.as_str()))),
                    None => say(format_args!("# {} is not set", setting.name)),
                }
            }
        }
    }
    Ok(())
}
