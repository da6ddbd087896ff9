//! `config check` and `config print`.

use clap::Subcommand;

use super::{Settings, say};

#[derive(Subcommand)]
pub(super) enum Step {
    /// Say whether `serve` would take the settings; every bad one is named.
    Check,
    /// Print every setting as it would be used, secrets masked.
    Print,
}

pub(super) fn run(settings: &Settings, step: &Step) -> anyhow::Result<()> {
    let config = settings.load()?;
    match step {
        Step::Check => {
            config.for_serving()?;
            say("the settings are good");
        }
        Step::Print => {
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
