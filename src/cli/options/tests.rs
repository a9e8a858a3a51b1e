use super::*;
use clap::Parser;
use tracing::level_filters::LevelFilter;

#[derive(Debug, Parser)]
struct Wrapper {
    #[command(flatten)]
    options: ServeOptions,
}

pub(in crate::cli) fn settings(arguments: &[&str]) -> Result<Settings, String> {
    let all = ["serve"].iter().chain(arguments);
    let parsed = Wrapper::try_parse_from(all).map_err(|error| error.to_string())?;
    parsed.options.check()
}

#[test]
fn defaults_are_the_references() {
    let got = settings(&[]).unwrap();
    assert_eq!(
        (got.grpc_port, got.health_port, got.metrics_port),
        (9002, 9003, 9090)
    );
    assert!(got.tls.is_some() && got.subset_filter && !got.emit_scores);
    assert_eq!(got.refresh_metrics, Duration::from_millis(50));
    assert_eq!(got.drain_timeout, Duration::from_secs(30));
    assert_eq!(got.max_body, 32 << 20);
    assert!(got.metrics_auth && got.metrics_tls.is_none());
}

#[test]
fn booleans_stand_alone_or_with_a_value() {
    assert!(settings(&["--secure-serving=false"]).unwrap().tls.is_none());
    assert!(settings(&["--emit-endpoint-scores"]).unwrap().emit_scores);
    assert!(
        settings(&["--health-checking=true"])
            .unwrap()
            .health_checking
    );
}

#[test]
fn booleans_are_spelled_as_in_go() {
    for (value, expected) in [
        ("1", true),
        ("t", true),
        ("T", true),
        ("TRUE", true),
        ("true", true),
        ("True", true),
        ("0", false),
        ("f", false),
        ("F", false),
        ("FALSE", false),
        ("false", false),
        ("False", false),
    ] {
        let got = settings(&[&format!("--secure-serving={value}")]).unwrap();
        assert_eq!(got.tls.is_some(), expected, "{value}");
    }
    let error = settings(&["--secure-serving=yes"]).unwrap_err();
    assert!(error.contains("--secure-serving") && error.contains("true or false"));
}

#[test]
fn the_last_of_a_repeated_flag_counts_and_lists_grow() {
    let got = settings(&[
        "--grpc-port=1",
        "--secure-serving",
        "--grpc-port=2",
        "--secure-serving=false",
        "--config-file=a",
        "--config-file=b",
        "--v=2",
        "--v=4",
        "--logtostderr",
        "--logtostderr=false",
    ])
    .unwrap();
    assert_eq!((got.grpc_port, got.tls.is_none()), (2, true));
    assert!(matches!(got.config, ConfigSource::File(path) if path.as_os_str() == "b"));
    assert_eq!(got.log_level, LevelFilter::DEBUG);
    let sans = ["--client-allowed-sans=a, b,", "--client-allowed-sans=c"];
    let got = settings(&[&["--client-ca-file=f"][..], &sans].concat()).unwrap();
    assert_eq!(got.tls.unwrap().client_sans, ["a", "b", "c"]);
    let ports = |second| {
        let first = "--endpoint-target-ports=1,2,3,4,5";
        settings(&["--endpoint-selector=a=b", first, second])
    };
    assert!(ports("--endpoint-target-ports=6,7,8").is_ok());
    assert!(ports("--endpoint-target-ports=6,7,8,9").is_err());
}

#[test]
fn information_is_logged_at_any_verbosity() {
    for (flag, expected) in [
        ("--v=0", LevelFilter::INFO),
        ("--v=1", LevelFilter::INFO),
        ("--v=3", LevelFilter::INFO),
        ("--v=4", LevelFilter::DEBUG),
        ("--v=1000", LevelFilter::TRACE),
        ("--zap-log-level=1", LevelFilter::INFO),
        ("--zap-log-level=error", LevelFilter::ERROR),
    ] {
        assert_eq!(settings(&[flag]).unwrap().log_level, expected, "{flag}");
    }
}

#[test]
fn every_flag_of_the_reference_is_taken() {
    settings(&[
        "--pool-namespace=x",
        "--pool-group=g",
        "--pool-name=p",
        "--zap-encoder=json",
        "--zap-devel=false",
        "--zap-log-level=debug",
        "--zap-stacktrace-level=error",
        "--zap-time-encoding=iso8601",
        "--v=4",
        "--tracing=false",
        "--metrics-endpoint-auth=false",
        "--enable-pprof=false",
        "--ha-enable-leader-election",
        "--enable-grpc-stream-metrics",
        "--legacy-metrics",
        "--refresh-prometheus-metrics-interval=5s",
        "--metrics-cert-dir=/c",
        "--metrics-client-ca-file=/ca",
        "--tls-min-version=VersionTLS13",
        "--tls-cipher-suites=",
        "--cert-path=/c",
        "--enable-cert-reload",
        "--grpc-max-recv-msg-size=8Mi",
        "--grpc-max-send-msg-size=8Mi",
        "--vmodule=a=1",
        "--logtostderr",
        "--disable-endpoint-subset-filter",
        "--allow-experimental-plugins",
        "--config-file=/f",
    ])
    .unwrap();
    settings(&[
        "--endpoint-selector=app=x",
        "--endpoint-target-ports=8000,8001",
    ])
    .unwrap();
}

#[test]
fn errors_name_the_flag_and_the_remedy() {
    for (arguments, expected) in [
        (
            &["--config-file=a", "--config-text=b"][..],
            "exclude each other",
        ),
        (
            &["--pool-name=a", "--endpoint-selector=b"],
            "exclude each other",
        ),
        (&["--endpoint-selector=b"], "--endpoint-target-ports"),
        (
            &["--endpoint-selector=a=b,c", "--endpoint-target-ports=1"],
            "`c` is not a label",
        ),
        (
            &["--endpoint-selector=a=b", "--endpoint-target-ports=1,1"],
            "write each port once",
        ),
        (&["--lora-info-metric=x"], "--lora-info-metric is gone"),
        (&["--tls-min-version=1.1"], "write 1.2 or 1.3"),
        (&["--client-allowed-sans=a"], "needs --client-ca-file"),
        (
            &["--client-allowed-sans=a", "--secure-serving=false"],
            "needs --secure-serving=true",
        ),
        (
            &["--gpu-agents=a:1", "--gpu-agents-ca-file=x"],
            "--gpu-agents-ca-file needs --gpu-agents-tls",
        ),
        (
            &[
                "--gpu-agents=a:1",
                "--gpu-agents-tls",
                "--gpu-agents-ca-file=x",
                "--gpu-agents-insecure-skip-verify",
            ],
            "takes any certificate: give it, or",
        ),
        (&["--gpu-agents-tls"], "--gpu-agents-tls needs --gpu-agents"),
        (
            &["--gpu-agents-selector=a=b"],
            "list agents with --gpu-agents",
        ),
        (
            &["--pool-name=p", "--gpu-agents-selector=a"],
            "--gpu-agents-selector: `a` is not a label",
        ),
        (
            &["--gpu-agents-namespace=n"],
            "--gpu-agents-namespace needs --gpu-agents-selector",
        ),
        (&["--gpu-agents=a"], "--gpu-agents: `a` is not host:port"),
        (&["--drain-timeout=5"], "is not a duration"),
        (&["--grpc-prot=1"], "--grpc-port"),
        (&["--metrics-client-ca-file=x"], "needs --metrics-cert-dir"),
        (
            &["--metrics-cert-dir=x", "--metrics-endpoint-auth=false"],
            "without --metrics-client-ca-file or --metrics-endpoint-auth",
        ),
    ] {
        let got = settings(arguments).unwrap_err();
        assert!(got.contains(expected), "{got}");
    }
}
