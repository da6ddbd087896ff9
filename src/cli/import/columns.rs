//! Which column of a file is what.

use std::collections::HashSet;

/// What a customer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    TenantId,
    Id,
    Name,
    Status,
    UpdatedAt,
    Attributes,
}

/// All of them, each at its own number.
pub(super) const TARGETS: [Target; 6] = [Target::TenantId, Target::Id, Target::Name, Target::Status, Target::UpdatedAt, Target::Attributes];

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TenantId => "tenant_id",
            Self::Id => "id",
            Self::Name => "name",
            Self::Status => "status",
            Self::UpdatedAt => "updated_at",
            Self::Attributes => "attributes",
        }
    }
}

/// What a column is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// For these.
    Targets(Vec<Target>),
    /// For nothing.
    Ignored,
    /// One more attribute.
    Attribute,
}

/// Which column each target is taken from, by name.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    sources: [String; TARGETS.len()],
    ignored: HashSet<String>,
}

impl Columns {
    /// By the targets' own names, but for those of the mapping.
    pub(super) fn new(mapping: &[(Target, String)], ignored: &[String]) -> anyhow::Result<Self> {
        let mut sources = TARGETS.map(|target| target.name().to_owned());
        for (nth, (target, source)) in mapping.iter().enumerate() {
            anyhow::ensure!(mapping[..nth].iter().all(|(earlier, _)| earlier != target), "--map names {} twice", target.name());
            sources[*target as usize].clone_from(source);
        }
        Ok(Self { sources, ignored: ignored.iter().cloned().collect() })
    }

    pub(super) fn source(&self, target: Target) -> &str {
        &self.sources[target as usize]
    }

    pub(super) fn role(&self, column: &str) -> Role {
        let targets: Vec<_> = TARGETS.into_iter().filter(|target| self.source(*target) == column).collect();
        match targets.is_empty() {
            false => Role::Targets(targets),
            true if self.ignored.contains(column) => Role::Ignored,
            true => Role::Attribute,
        }
    }
}

/// `TARGET=COLUMN`
pub(super) fn mapping(text: &str) -> Result<(Target, String), String> {
    let (target, source) = text.split_once('=').filter(|(_, source)| !source.is_empty()).ok_or("must be TARGET=COLUMN")?;
    let names = TARGETS.map(Target::name).join(", ");
    let target = TARGETS.into_iter().find(|known| known.name() == target).ok_or_else(|| format!("a target is one of {names}"))?;
    Ok((target, source.to_owned()))
}
