//! Flags as Go programs take them, turned into the spelling that clap takes.
//!
//! The llm-d picker is started with flags alone (`--pool-name x`), with one dash or two, and with `-v=4`: that is `serve`.

/// The subcommands; anything else in first place must be a flag of `serve`.
const COMMANDS: [&str; 9] = [
    "serve", "check", "sim", "probe", "gpus", "load", "replay", "demo", "help",
];

/// Rewrites the arguments of `serve`; those of other subcommands stay as they are.
pub(super) fn normalise(arguments: Vec<String>) -> Result<Vec<String>, String> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let mut out = vec![program];
    let mut rest: Vec<String> = arguments.collect();
    match rest.first().map(String::as_str) {
        None | Some("-h" | "--help" | "-V" | "--version") => {
            out.append(&mut rest);
            return Ok(out);
        }
        Some("serve") => {
            out.push(rest.remove(0));
        }
        Some(command) if COMMANDS.contains(&command) => {
            out.append(&mut rest);
            return Ok(out);
        }
        Some(flag) if flag.starts_with('-') => out.push("serve".to_owned()),
        Some(word) => {
            let hint = crate::config::did_you_mean(word, COMMANDS);
            return Err(format!(
                "`{word}` is not a command{hint} (commands: {})",
                COMMANDS.join(", ")
            ));
        }
    }
    out.extend(rest.into_iter().map(flag));
    Ok(out)
}

/// `-grpc-port=1` → `--grpc-port=1`, `-v4` → `--v=4`; short flags of our own stay.
fn flag(argument: String) -> String {
    if let Some(verbosity) = argument.strip_prefix("-v")
        && !verbosity.is_empty()
        && verbosity.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("--v={verbosity}");
    }
    let name = argument.split('=').next().unwrap_or_default();
    let is_single = argument.starts_with('-') && !argument.starts_with("--");
    if is_single && name.len() > 1 && !matches!(name, "-h" | "-V") && !is_number(&argument) {
        format!("-{argument}")
    } else {
        argument
    }
}

fn is_number(argument: &str) -> bool {
    argument.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Vec<String> {
        let all = ["pointsman"]
            .iter()
            .chain(arguments)
            .map(ToString::to_string);
        normalise(all.collect()).unwrap().split_off(1)
    }

    #[test]
    fn spellings() {
        assert_eq!(
            of(&["-grpc-port=1", "-v=4", "--tracing"]),
            ["serve", "--grpc-port=1", "--v=4", "--tracing"]
        );
        assert_eq!(of(&["serve", "-v", "2"]), ["serve", "--v", "2"]);
        assert_eq!(
            of(&["-v4", "-vmodule=a=1", "-v=10"]),
            ["serve", "--v=4", "--vmodule=a=1", "--v=10"]
        );
        assert_eq!(of(&["check", "-x"]), ["check", "-x"]);
        assert_eq!(of(&["--help"]), ["--help"]);
        assert!(
            normalise(vec!["pointsman".into(), "serv".into()])
                .unwrap_err()
                .contains("`serve`")
        );
    }
}
