//! Which flags go together.

use clap::Parser as _;

use super::*;
use crate::sim::Pace;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: SimArgs,
}

fn parse(flags: &[&str]) -> Result<SimArgs, String> {
    let cli = Cli::try_parse_from([&["sim"], flags].concat());
    cli.map(|cli| cli.args).map_err(|error| error.to_string())
}

#[test]
fn what_no_server_could_have_is_refused() {
    for (flag, words) in [
        ("--servers=0", "0 is not in 1..=65535"),
        ("--prefill-rate=0", "it must be more than 0"),
        ("--prefill-rate=-1", "it must be more than 0"),
        ("--prefill-rate=inf", "it must be more than 0"),
        ("--prefill-rate=NaN", "it must be more than 0"),
        ("--prefill-rate=fast", "not a number of tokens a second"),
        ("--block-size=0", "0 is not in 1..="),
        ("--kv-blocks=0", "0 is not in 1..="),
        ("--max-num-seqs=0", "0 is not in 1..="),
        ("--max-model-len=0", "0 is not in 1.."),
        ("--max-loras=0", "0 is not in 1..="),
        ("--max-cpu-loras=0", "0 is not in 1..="),
        ("--slow-first=0", "0 is not in 1..="),
        ("--tokens=0", "0 is not in 1..="),
        ("--tp=0", "0 is not in 1..="),
        ("--speed=0", "not a number from"),
        ("--ttft=-1s", "is not a duration"),
        ("--itl=5", "is not a duration"),
        ("--lora=a,,b", "a value is required"),
        ("--model=", "a value is required"),
    ] {
        let error = parse(&[flag]).expect_err(flag);
        let (name, _) = flag.split_once('=').unwrap();
        assert!(
            error.contains(words) && error.contains(name),
            "{flag}: {error}"
        );
    }
}

#[tokio::test]
async fn what_does_not_go_together_is_refused() {
    for (flags, words) in [
        (
            &["--lora=a,b", "--max-cpu-loras=1"][..],
            "--max-cpu-loras allows 1",
        ),
        (&["--port=65535", "--servers=2"], "past 65535"),
    ] {
        let error = run(parse(flags).unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{flags:?}: {error}");
    }
}

#[test]
fn how_many_adapters() {
    for (flags, in_batch, loaded) in [
        (&[][..], 0, 0),
        (&["--max-cpu-loras=3"], 0, 0),
        (&["--lora=a"], 4, 4),
        (&["--lora=a,b,c", "--max-loras=2"], 2, 3),
        (&["--max-loras=2"], 2, 2),
        (&["--max-loras=1", "--max-cpu-loras=8"], 1, 8),
    ] {
        let args = parse(flags).unwrap();
        let server = args.server(0, &args.spec().unwrap());
        let found = (server.engine.max_loras, server.max_cpu_loras);
        assert_eq!(found, (in_batch, loaded), "{flags:?}");
    }
}

#[test]
fn one_given_time_makes_all_fixed() {
    let pace = |flags: &[&str]| {
        let args = parse(flags).unwrap();
        args.server(0, &args.spec().unwrap()).engine.pace
    };
    for flags in [
        &["--ttft=50ms"][..],
        &["--itl=10ms"],
        &["--prefill-rate=2e4"],
    ] {
        let Pace::Fixed(times) = pace(flags) else {
            panic!("{flags:?}")
        };
        let given = (times.ttft.as_millis(), times.itl.as_millis());
        assert_eq!((given, times.prefill_rate), ((50, 10), 2e4));
    }
    let Pace::Steps(spec) = pace(&["--max-num-seqs=4000"]) else {
        panic!("no time was given")
    };
    assert_eq!((&*spec.gpu, spec.max_num_batched_tokens), ("H100", 4000));
    // What fits, if nothing else is said.
    assert!(spec.kv_blocks > Some(20_000));
}

#[test]
fn hardware_that_is_not_known_is_refused_with_what_is() {
    for (flags, words) in [
        (&["--gpu=H1000"][..], "H100"),
        (&["--model-spec=gpt"], "llama3-8b"),
        (
            &["--gpu=L4", "--model-spec=llama3-70b"],
            "no memory is left",
        ),
        (
            &["--max-num-batched-tokens=8", "--max-num-seqs=9"],
            "at least max_num_seqs",
        ),
    ] {
        let error = parse(flags).unwrap().spec().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
