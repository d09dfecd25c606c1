//! The command line. Patroni passes whatever stands in the configuration of a replica creation method, so options that are
//! not known are ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Help.
pub const USAGE: &str = "\
Usage: patroni_barman --api-url URL [options] recover|config-switch [options]

  --api-url URL          where pg-backup-api answers
  --cert-file FILE       client certificate
  --key-file FILE        its key
  --retry-wait SECONDS   between two attempts of a request (2)
  --max-retries N        further attempts of a request (5)
  --log-file FILE        log there instead of standard error

recover: restores a backup into a data directory
  --barman-server NAME   server in Barman
  --backup-id ID         which backup (latest)
  --ssh-command COMMAND  how Barman reaches this machine
  --data-directory DIR   where to; also --datadir
  --loop-wait SECONDS    between two looks at the restore (10)

config-switch on_role_change ROLE CLUSTER: switches Barman's configuration
  --barman-server NAME   server in Barman
  --barman-model NAME    model to switch to, or
  --reset                back to the server's own configuration
  --switch-when WHEN     promoted, demoted or always";

const VALUED: [&str; 14] = [
    "--api-url",
    "--cert-file",
    "--key-file",
    "--retry-wait",
    "--max-retries",
    "--log-file",
    "--barman-server",
    "--backup-id",
    "--ssh-command",
    "--data-directory",
    "--datadir",
    "--loop-wait",
    "--barman-model",
    "--switch-when",
];
const ROLES: [&str; 5] = ["primary", "promoted", "standby_leader", "replica", "demoted"];

/// Everything that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// `--api-url`
    pub api_url: String,
    /// `--cert-file`
    pub cert_file: Option<PathBuf>,
    /// `--key-file`
    pub key_file: Option<PathBuf>,
    /// `--retry-wait`
    pub retry_wait_s: u64,
    /// `--max-retries`
    pub max_retries: u32,
    /// `--log-file`
    pub log_file: Option<PathBuf>,
    /// The sub-command.
    pub command: Option<Command>,
}

/// A sub-command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `recover`
    Recover(Recover),
    /// `config-switch`
    ConfigSwitch(ConfigSwitch),
}

/// Options of `recover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// `--barman-server`
    pub barman_server: String,
    /// `--backup-id`
    pub backup_id: String,
    /// `--ssh-command`
    pub ssh_command: String,
    /// `--data-directory`, `--datadir`
    pub data_directory: String,
    /// `--loop-wait`
    pub loop_wait_s: u64,
}

/// Options of `config-switch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSwitch {
    /// The node's new role.
    pub role: String,
    /// `--barman-server`
    pub barman_server: String,
    /// `--barman-model`
    pub barman_model: Option<String>,
    /// `--reset`
    pub reset: bool,
    /// `--switch-when`
    pub switch_when: SwitchWhen,
}

/// When to switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchWhen {
    /// The node became the primary.
    Promoted,
    /// The node is the primary no more.
    Demoted,
    /// At any change.
    Always,
}

impl ConfigSwitch {
    /// The switch is meant for the node's new role.
    pub fn is_for_role(&self) -> bool {
        match self.switch_when {
            SwitchWhen::Always => true,
            SwitchWhen::Promoted => matches!(self.role.as_str(), "primary" | "promoted"),
            SwitchWhen::Demoted => matches!(self.role.as_str(), "replica" | "demoted"),
        }
    }
}

/// Words by kind, unknown options left out.
#[derive(Default)]
struct Words<'a> {
    values: BTreeMap<&'a str, &'a str>,
    reset: bool,
    positional: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn sort(words: &'a [String]) -> Result<Words<'a>, String> {
        let mut sorted = Words::default();
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            if VALUED.contains(&name) {
                let value = value.or_else(|| rest.next()).ok_or_else(|| format!("{name} needs a value"))?;
                sorted.values.insert(name, value);
            } else if word == "--reset" {
                sorted.reset = true;
            } else if !word.starts_with('-') {
                sorted.positional.push(word);
            }
        }
        Ok(sorted)
    }

    fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).map(|value| (*value).to_owned())
    }

    fn required(&self, name: &str) -> Result<String, String> {
        self.value(name).ok_or_else(|| format!("{name} is required"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.values.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name} {text:?}: expected a whole number")),
        }
    }
}

impl Arguments {
    /// Reads the words after the program's name. The error is a sentence.
    pub fn parse(words: &[String]) -> Result<Arguments, String> {
        let words = Words::sort(words)?;
        let command = match words.positional.first() {
            None => None,
            Some(&"recover") => Some(Command::Recover(recover(&words)?)),
            Some(&"config-switch") => Some(Command::ConfigSwitch(config_switch(&words)?)),
            Some(other) => return Err(format!("{other:?}: expected recover or config-switch")),
        };
        Ok(Arguments {
            api_url: words.required("--api-url")?,
            cert_file: words.value("--cert-file").map(PathBuf::from),
            key_file: words.value("--key-file").map(PathBuf::from),
            retry_wait_s: words.number("--retry-wait", 2)?,
            max_retries: words.number("--max-retries", 5)?,
            log_file: words.value("--log-file").map(PathBuf::from),
            command,
        })
    }
}

fn recover(words: &Words<'_>) -> Result<Recover, String> {
    let directory = words.value("--data-directory").or_else(|| words.value("--datadir"));
    Ok(Recover {
        barman_server: words.required("--barman-server")?,
        backup_id: words.value("--backup-id").unwrap_or_else(|| "latest".to_owned()),
        ssh_command: words.required("--ssh-command")?,
        data_directory: directory.ok_or("--data-directory is required")?,
        loop_wait_s: words.number("--loop-wait", 10)?,
    })
}

fn config_switch(words: &Words<'_>) -> Result<ConfigSwitch, String> {
    let [_, action, role, _cluster, ..] = words.positional[..] else {
        return Err("config-switch needs action, role and cluster".to_owned());
    };
    if action != "on_role_change" {
        return Err(format!("action {action:?}: expected on_role_change"));
    }
    if !ROLES.contains(&role) {
        return Err(format!("role {role:?}: expected one of {}", ROLES.join(", ")));
    }
    let switch_when = match words.required("--switch-when")?.as_str() {
        "promoted" => SwitchWhen::Promoted,
        "demoted" => SwitchWhen::Demoted,
        "always" => SwitchWhen::Always,
        other => return Err(format!("--switch-when {other:?}: expected promoted, demoted or always")),
    };
    Ok(ConfigSwitch {
        role: role.to_owned(),
        barman_server: words.required("--barman-server")?,
        barman_model: words.value("--barman-model"),
        reset: words.reset,
        switch_when,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments, String> {
        Arguments::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_and_what_patroni_adds() {
        let arguments = parse(
            "--api-url http://b:7480 recover --barman-server=s --ssh-command ssh --scope=x --role=replica \
             --datadir=/d --connstring=host=y --unknown",
        )
        .expect("arguments");
        assert_eq!((arguments.retry_wait_s, arguments.max_retries), (2, 5));
        let Some(Command::Recover(recover)) = arguments.command else { panic!("recover was asked for") };
        assert_eq!(
            (recover.backup_id.as_str(), recover.data_directory.as_str(), recover.loop_wait_s),
            ("latest", "/d", 10)
        );
    }

    #[test]
    fn when_to_switch() {
        for (when, role, expected) in [
            ("promoted", "primary", true),
            ("promoted", "promoted", true),
            ("promoted", "replica", false),
            ("promoted", "standby_leader", false),
            ("demoted", "replica", true),
            ("demoted", "demoted", true),
            ("demoted", "primary", false),
            ("always", "standby_leader", true),
        ] {
            let text = format!(
                "--api-url u config-switch --barman-server s --reset --switch-when {when} on_role_change {role} c"
            );
            let Some(Command::ConfigSwitch(switch)) = parse(&text).expect("arguments").command else {
                panic!("{text}")
            };
            assert_eq!(switch.is_for_role(), expected, "{when} {role}");
        }
    }

    #[test]
    fn what_cannot_be_understood() {
        for (text, part) in [
            ("recover", "--barman-server is required"),
            ("recover --barman-server s --ssh-command x --datadir d", "--api-url is required"),
            ("--api-url u recover --barman-server s --ssh-command x", "--data-directory is required"),
            ("--api-url u --max-retries many recover --barman-server s --ssh-command x --datadir d", "a whole number"),
            ("--api-url", "needs a value"),
            ("--api-url u destroy", "expected recover or config-switch"),
            ("--api-url u config-switch --barman-server s --switch-when always on_start primary c", "on_role_change"),
            (
                "--api-url u config-switch --barman-server s --switch-when always on_role_change king c",
                "expected one of",
            ),
            ("--api-url u config-switch --barman-server s on_role_change primary c", "--switch-when is required"),
            ("--api-url u config-switch --barman-server s --switch-when now on_role_change primary c", "always"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(parse("--api-url u").expect("no command").command, None);
    }
}
