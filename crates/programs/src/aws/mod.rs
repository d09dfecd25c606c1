//! `patroni_aws`: tags this EC2 instance and its volumes with the role of the node. A callback for `on_start`, `on_stop`
//! and `on_role_change`.

mod ec2;
mod metadata;
mod sigv4;

use std::ffi::OsString;
use std::time::Duration;

use crate::http::Patience;
use ec2::Ec2;
use metadata::Metadata;

const ACTIONS: [&str; 3] = ["on_start", "on_stop", "on_role_change"];
const USAGE: &str = "Usage: patroni_aws action role name\n  action: on_start, on_stop or on_role_change";
/// Calls that fail are tried again for so long; a newer callback ends this one sooner.
const PATIENCE: Patience =
    Patience { total: Duration::from_secs(300), pause: Duration::from_secs(1), pause_max: Duration::from_secs(30) };
const METADATA: &str = "http://169.254.169.254";

/// Where the services are.
struct Services {
    metadata: String,
    /// The public API of the instance's region where `None`.
    ec2: Option<String>,
}

impl Services {
    /// The real ones, unless the AWS SDKs' variables name others.
    fn from_env() -> Services {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Services {
            metadata: variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA.to_owned()),
            ec2: variable("AWS_ENDPOINT_URL_EC2").or_else(|| variable("AWS_ENDPOINT_URL")),
        }
    }
}

/// Runs with these arguments, the program's name first; the exit code: 0 all tagged, 1 not, or not asked properly.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<String> =
        arguments.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let [action, role, cluster] = &arguments[..] else {
        eprintln!("{USAGE}");
        return 1;
    };
    if !ACTIONS.contains(&action.as_str()) {
        eprintln!("{USAGE}");
        return 1;
    }
    // Without a file nothing can fail here.
    let _ = crate::start_log(None);
    crate::block_on(async {
        match tag(&Services::from_env(), role, cluster).await {
            Ok(()) => 0,
            Err(why) => {
                tracing::error!("{why}");
                1
            }
        }
    })
}

/// Tags the instance with `Role`, and its volumes with `Name` (`spilo_<cluster>`), `Role` and `Instance`.
async fn tag(services: &Services, role: &str, cluster: &str) -> Result<(), String> {
    let metadata = Metadata::new(&services.metadata)?;
    let identity = metadata.identity().await.map_err(|why| format!("cannot query AWS metadata: {why}"))?;
    let endpoint = services.ec2.clone().unwrap_or_else(|| ec2::endpoint_of(&identity.region));
    let instance = identity.instance_id.as_str();
    let (metadata, region, endpoint) = (&metadata, identity.region.as_str(), endpoint.as_str());
    // Fresh credentials for every attempt: those of a role end.
    let api = || async move { Ok::<_, String>(Ec2 { endpoint, region, credentials: metadata.credentials().await? }) };
    let tag_instance = || async move { api().await?.create_tags(&[instance.to_owned()], &[("Role", role)]).await };
    PATIENCE.retry("tag the instance", tag_instance).await?;
    let list = || async move { api().await?.volumes_of(instance).await };
    let volumes = PATIENCE.retry("list the volumes of the instance", list).await?;
    if volumes.is_empty() {
        return Ok(());
    }
    let (name, volumes) = (&format!("spilo_{cluster}"), &volumes);
    let tag_volumes = || async move {
        api().await?.create_tags(volumes, &[("Name", name), ("Role", role), ("Instance", instance)]).await
    };
    PATIENCE.retry("tag the volumes of the instance", tag_volumes).await
}
