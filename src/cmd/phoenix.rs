//! `nvstage phoenix CTID`, also as `phoenix_hypervisor_lxc_common_nvidia.sh CTID`: the contract of
//! the Phoenix Hypervisor's script, carried out by `provision`.

use clap::Args;

use super::provision;
use super::{
    BatchArguments, Context, MirrorArguments, RecipeArguments, RestartArguments, RuntimeArgument,
    SourceArguments, TargetArguments,
};
use crate::error::Result;
use crate::phoenix::PhoenixRequest;
use crate::report::Report;

/// Be called like the Phoenix Hypervisor's script, by its environment variables
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Container; then, where the variables are not set: GPU_ASSIGNMENT,
    /// NVIDIA_DRIVER_VERSION, NVIDIA_REPO_URL, NVIDIA_RUNFILE_URL
    #[arg(value_name = "CTID", allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// Invalid input for anything that the contract does not allow; otherwise as `provision`.
pub fn run(
    context: &Context<'_>,
    arguments: &Arguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Report> {
    let request = PhoenixRequest::from_environment(&arguments.arguments, environment)?;
    let mut settings = Vec::new();
    for (key, value) in [
        ("driver", request.driver.as_ref().map(ToString::to_string)),
        ("repository.url", request.repository_url.clone()),
        ("installer.url", request.installer_url.clone()),
    ] {
        settings.extend(value.map(|value| format!("{key}={value}")));
    }
    let arguments = provision::Arguments {
        targets: TargetArguments {
            containers: vec![request.ctid.to_string()],
            gpus: Some(request.gpus.to_string()),
            environment_gpus: None,
            from: None,
            all_assigned: false,
            file: None,
            runtime: RuntimeArgument::Auto,
        },
        recipe: RecipeArguments::of_settings(settings),
        sources: SourceArguments { trust_tls: false, timeout: 30, offline: false },
        mirror: MirrorArguments::default(),
        batch: BatchArguments::default(),
        stage: provision::StageArgument::Mount,
        restarts: RestartArguments { yes: true, no_restart: false },
        start: true,
        adopt: false,
        installer_timeout: provision::INSTALLER_TIMEOUT,
    };
    let mut report = provision::run(context, &arguments)?;
    report.command = "phoenix";
    Ok(report)
}
