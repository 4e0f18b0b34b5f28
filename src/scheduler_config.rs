//! Reading a `KubeSchedulerConfiguration`.

use std::path::Path;

use anyhow::{Context, Result};
use sampan_controllers::SchedulerConfig;

/// Reads the file that `--scheduler-config` names, or gives the default; everything that is wrong is said at once.
pub(crate) fn read(file: Option<&Path>) -> Result<SchedulerConfig> {
    let Some(file) = file else { return Ok(SchedulerConfig::default()) };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value = serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))?;
    SchedulerConfig::parse(value).map_err(|errors| {
        anyhow::anyhow!(
            "{} is no KubeSchedulerConfiguration that can be followed:\n  {}\n(hint: correct the file, then start again)",
            file.display(),
            errors.join("\n  ")
        )
    })
}
