//! Errors as the client's dialect writes them.

use bytes::Bytes;

use super::{Dialect, escape};

/// The JSON body of an error with that HTTP status. Dialects that are neither OpenAI's nor Anthropic's take
/// OpenAI's form, as their servers do.
pub fn error_body(dialect: Dialect, status: u16, message: &str) -> Bytes {
    let message = escape::quote(message);
    let body = match dialect {
        Dialect::Anthropic => {
            let kind = anthropic_type(status);
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}}}}"#)
        }
        Dialect::OpenAi | Dialect::Vllm | Dialect::Sglang | Dialect::Passthrough => {
            let kind = openai_type(status);
            let code = openai_code(status).map_or("null".to_owned(), escape::quote);
            format!(
                r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{code}}}}}"#
            )
        }
    };
    body.into()
}

fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

fn openai_code(status: u16) -> Option<&'static str> {
    match status {
        412 => Some("precondition_failed"),
        413 => Some("request_too_large"),
        429 => Some("rate_limit_exceeded"),
        503 => Some("service_unavailable"),
        504 => Some("timeout"),
        _ => None,
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn envelopes() {
        for (dialect, status, expected) in [
            (
                Dialect::OpenAi,
                400,
                json!({"error":{"message":"no \"x\"\n","type":"invalid_request_error","param":null,"code":null}}),
            ),
            (
                Dialect::Vllm,
                429,
                json!({"error":{"message":"no \"x\"\n","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}),
            ),
            (
                Dialect::Passthrough,
                503,
                json!({"error":{"message":"no \"x\"\n","type":"server_error","param":null,"code":"service_unavailable"}}),
            ),
            (
                Dialect::Sglang,
                413,
                json!({"error":{"message":"no \"x\"\n","type":"invalid_request_error","param":null,"code":"request_too_large"}}),
            ),
            (
                Dialect::Anthropic,
                503,
                json!({"type":"error","error":{"type":"overloaded_error","message":"no \"x\"\n"}}),
            ),
            (
                Dialect::Anthropic,
                500,
                json!({"type":"error","error":{"type":"api_error","message":"no \"x\"\n"}}),
            ),
        ] {
            let body = error_body(dialect, status, "no \"x\"\n");
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        }
    }
}
