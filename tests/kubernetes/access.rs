//! Who may read the metrics port: the API server says.

use http_body_util::{BodyExt as _, Full};
use pointsman::sim::kube::{Call, Reader};

use crate::support::cluster::Cluster;
use crate::support::picker::Picker;
use crate::support::{http, machine};

/// A cluster in which `prometheus` may read `/metrics`, and `admin` one page more, and its picker.
async fn guarded() -> (Cluster, Picker) {
    let cluster = Cluster::start().await;
    cluster.pool(&[8000]);
    cluster.pod("a", "10.1.0.1", true, None);
    for (user, paths) in [
        ("prometheus", &["/metrics"][..]),
        ("admin", &["/metrics", "/debug/plugins/state"]),
    ] {
        cluster.api.admit(Reader {
            token: format!("{user}s-token"),
            user: format!("system:serviceaccount:models:{user}"),
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        });
    }
    let picker = cluster.picker(&["--metrics-endpoint-auth"]).await;
    picker.until_health("readiness", true).await;
    (cluster, picker)
}

pub(super) async fn read(picker: &Picker, path: &str, token: Option<&str>) -> (u16, String) {
    let uri = format!("http://{}{path}", picker.metrics);
    let mut request = ::http::Request::get(uri);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::default()).unwrap();
    let response = http().request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_for_those_whom_the_api_server_lets_read_them() {
    let _machine = machine::shared().await;
    let (_cluster, picker) = guarded().await;
    let (prometheus, admin) = (Some("prometheuss-token"), Some("admins-token"));
    for (path, token, status, says) in [
        ("/metrics", None, 401, "Authorization: Bearer"),
        ("/metrics", Some("made-up"), 401, "not valid"),
        ("/metrics", prometheus, 200, "llm_d_epp_"),
        (
            "/debug/plugins/state",
            prometheus,
            403,
            "system:serviceaccount:models:prometheus has no right to get /debug/plugins/state",
        ),
        ("/debug/plugins/state", admin, 200, "models/a-rank-0"),
        ("/debug/gpus", admin, 403, "/debug/gpus"),
        ("/healthz", None, 200, "ok"),
    ] {
        let (got, body) = read(&picker, path, token).await;
        assert_eq!(got, status, "{path} {token:?}: {body}");
        assert!(body.contains(says), "{path} {token:?}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_asked_about_reads_nothing() {
    let _machine = machine::shared().await;
    let (cluster, picker) = guarded().await;
    let (known, new) = (Some("prometheuss-token"), Some("admins-token"));
    assert_eq!(read(&picker, "/metrics", known).await.0, 200);
    cluster.away();
    let (status, body) = read(&picker, "/metrics", new).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("tokenreviews"), "{body}");
    // It was permitted a moment ago.
    assert_eq!(read(&picker, "/metrics", known).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_to_ask_is_named() {
    let _machine = machine::shared().await;
    let (cluster, picker) = guarded().await;
    for (group, resource) in [
        ("authorization.k8s.io", "subjectaccessreviews"),
        ("authentication.k8s.io", "tokenreviews"),
    ] {
        cluster.api.forbid(Call {
            verb: "create".to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
        });
        let (status, body) = read(&picker, "/metrics", Some("admins-token")).await;
        let expected = format!("no right to create {resource}");
        assert!(status == 503 && body.contains(&expected), "{status} {body}");
    }
}
