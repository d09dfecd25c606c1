//! `patroni_barman`: has Barman restore a backup into a new replica (`recover`, a replica creation method), or switch to
//! another configuration model when this node's role changes (`config-switch`, a callback). Speaks pg-backup-api.

mod arguments;

use std::ffi::OsString;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::http;
use arguments::{Arguments, Command, ConfigSwitch, Recover};

/// Exit codes of every sub-command.
mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// `recover`: Barman could not.
    pub const RECOVER_FAILED: i32 = 1;
    /// `recover`: the API could not be spoken to.
    pub const RECOVER_HTTP: i32 = 2;
    /// `config-switch`: nothing to do for this role.
    pub const SWITCH_SKIPPED: i32 = 1;
    /// `config-switch`: Barman could not.
    pub const SWITCH_FAILED: i32 = 2;
    /// `config-switch`: the API could not be spoken to.
    pub const SWITCH_HTTP: i32 = 3;
    /// `config-switch`: neither or both of `--barman-model` and `--reset`.
    pub const SWITCH_ARGUMENTS: i32 = 4;
    /// The arguments cannot be understood.
    pub const USAGE: i32 = 2;
    /// The API's status is not `OK`.
    pub const API_NOT_OK: i32 = 254;
    /// No sub-command.
    pub const NO_COMMAND: i32 = 255;
}

/// Bound on one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a switch that is under way.
const SWITCH_PAUSE: Duration = Duration::from_secs(5);

/// Runs with these arguments, the program's name first; the exit code is one of [`exit`].
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let words: Vec<String> = arguments.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{}", arguments::USAGE);
        return exit::DONE;
    }
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{}\n{why}", arguments::USAGE);
            return exit::USAGE;
        }
    };
    if let Err(why) = crate::start_log(arguments.log_file.as_deref()) {
        eprintln!("{why}");
        return exit::USAGE;
    }
    crate::block_on(run(&arguments))
}

/// Does what the arguments say; the exit code.
async fn run(arguments: &Arguments) -> i32 {
    let Some(command) = &arguments.command else {
        eprintln!("{}", arguments::USAGE);
        return exit::NO_COMMAND;
    };
    let api = match Api::new(arguments) {
        Ok(api) => api,
        Err(why) => {
            tracing::error!("{why}");
            return exit::USAGE;
        }
    };
    match api.status().await {
        Ok(status) if status == "OK" => {}
        Ok(status) => {
            tracing::error!("the status of {} is {status}, not OK", api.url);
            return exit::API_NOT_OK;
        }
        Err(why) => {
            tracing::error!("{why}");
            return exit::API_NOT_OK;
        }
    }
    match command {
        Command::Recover(recover) => api.recover(recover).await,
        Command::ConfigSwitch(switch) => api.config_switch(switch).await,
    }
}

/// How an operation ended.
enum Ended {
    Done,
    Failed,
    /// Why it is not known.
    Unknown(String),
}

struct Api {
    url: String,
    client: Client,
    retry_wait: Duration,
    /// At least one.
    attempts: u32,
}

impl Api {
    fn new(arguments: &Arguments) -> Result<Api, String> {
        let mut builder = http::client(ANSWER_WITHIN);
        if let Some(cert) = &arguments.cert_file {
            builder = builder.identity(http::identity(cert, arguments.key_file.as_deref())?);
        }
        let client = builder.build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Api {
            url: arguments.api_url.trim_end_matches('/').to_owned(),
            client,
            retry_wait: Duration::from_secs(arguments.retry_wait_s),
            attempts: arguments.max_retries.saturating_add(1),
        })
    }

    /// The answer to a request, tried again as often as was asked for.
    async fn ask(&self, path: &str, body: Option<&Value>) -> Result<String, String> {
        let url = format!("{}/{path}", self.url);
        let mut attempts_left = self.attempts;
        loop {
            let request = match body {
                None => self.client.get(&url),
                Some(body) => self.client.post(&url).json(body),
            };
            attempts_left -= 1;
            match http::text_of(request.send().await).await {
                Ok(text) => return Ok(text),
                Err(why) if attempts_left == 0 => return Err(format!("cannot ask {url}: {why}")),
                Err(why) => tracing::warn!("cannot ask {url}: {why}; trying again"),
            }
            tokio::time::sleep(self.retry_wait).await;
        }
    }

    async fn ask_json(&self, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let text = self.ask(path, body).await?;
        serde_json::from_str(&text).map_err(|_| format!("{}/{path} answers with something that is no JSON", self.url))
    }

    /// One word, which may be quoted.
    async fn status(&self) -> Result<String, String> {
        let text = self.ask("status", None).await?;
        Ok(text.trim().trim_matches('"').to_owned())
    }

    /// Begins an operation and looks at it until it has ended, which takes as long as Barman says it takes.
    async fn operate(&self, server: &str, body: &Value, pause: Duration) -> Ended {
        let path = format!("servers/{server}/operations");
        let begun = match self.ask_json(&path, Some(body)).await {
            Ok(begun) => begun,
            Err(why) => return Ended::Unknown(why),
        };
        let id = match begun.get("operation_id") {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => return Ended::Unknown(format!("{} names no operation_id", self.url)),
        };
        tracing::info!("operation {id} on {server} has begun");
        loop {
            let answer = match self.ask_json(&format!("{path}/{id}"), None).await {
                Ok(answer) => answer,
                Err(why) => return Ended::Unknown(why),
            };
            match answer.get("status").and_then(Value::as_str) {
                Some("IN_PROGRESS") => tracing::info!("operation {id} is in progress"),
                Some("DONE") => return Ended::Done,
                Some("FAILED") => return Ended::Failed,
                other => return Ended::Unknown(format!("operation {id} has status {other:?}")),
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn recover(&self, recover: &Recover) -> i32 {
        let body = json!({
            "type": "recovery",
            "backup_id": recover.backup_id,
            "remote_ssh_command": recover.ssh_command,
            "destination_directory": recover.data_directory,
        });
        match self.operate(&recover.barman_server, &body, Duration::from_secs(recover.loop_wait_s)).await {
            Ended::Done => {
                tracing::info!("backup {} is restored", recover.backup_id);
                exit::DONE
            }
            Ended::Failed => {
                tracing::error!("Barman failed to restore backup {}", recover.backup_id);
                exit::RECOVER_FAILED
            }
            Ended::Unknown(why) => {
                tracing::error!("{why}");
                exit::RECOVER_HTTP
            }
        }
    }

    async fn config_switch(&self, switch: &ConfigSwitch) -> i32 {
        let body = match (&switch.barman_model, switch.reset) {
            (Some(model), false) => json!({"type": "config_switch", "model_name": model}),
            (None, true) => json!({"type": "config_switch", "reset": true}),
            _ => {
                tracing::error!("config-switch needs one of --barman-model and --reset");
                return exit::SWITCH_ARGUMENTS;
            }
        };
        if !switch.is_for_role() {
            tracing::info!("nothing to switch for the role {}", switch.role);
            return exit::SWITCH_SKIPPED;
        }
        match self.operate(&switch.barman_server, &body, SWITCH_PAUSE).await {
            Ended::Done => {
                tracing::info!("the configuration of {} is switched", switch.barman_server);
                exit::DONE
            }
            Ended::Failed => {
                tracing::error!("Barman failed to switch the configuration of {}", switch.barman_server);
                exit::SWITCH_FAILED
            }
            Ended::Unknown(why) => {
                tracing::error!("{why}");
                exit::SWITCH_HTTP
            }
        }
    }
}
