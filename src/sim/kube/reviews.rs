//! Who somebody is, and what he may do.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::ApiServer;

/// `review` with the answer in its status.
pub(super) fn answer(server: &ApiServer, mut review: Value) -> Response {
    let readers = server.readers.lock();
    let spec = &review["spec"];
    review["status"] = match spec.get("token") {
        Some(token) => match readers.iter().find(|reader| *token == reader.token) {
            Some(reader) => json!({"authenticated": true, "user": {"username": reader.user}}),
            None => json!({"authenticated": false, "error": "the token is not known"}),
        },
        None => {
            let (path, verb) = (
                &spec["nonResourceAttributes"]["path"],
                &spec["nonResourceAttributes"]["verb"],
            );
            let mut owned = readers.iter().filter(|reader| spec["user"] == reader.user);
            let allowed = owned.any(|reader| reader.paths.iter().any(|may| path == may));
            json!({"allowed": allowed && verb == "get"})
        }
    };
    Json(review).into_response()
}
