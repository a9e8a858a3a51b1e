//! Our protos are Envoy's, less what we do not use: the same names have the same numbers and types.
//!
//! Each message is built twice by the same lines, once from our types and once from those of the crate `envoy-types`,
//! which are generated from Envoy's own definition. Ours are written out in full, so a field that is added to `proto/`
//! does not compile until it is added here.

use proptest::prelude::*;
use prost::Message;

/// What the fields of a message are filled with. Maps get one entry each, since their order on the wire is open.
#[derive(Clone, Debug)]
struct Filling {
    texts: [String; 3],
    bytes: Vec<u8>,
    flag: bool,
    number: f64,
    small: i32,
    /// Which of the alternatives.
    choice: usize,
}

fn filling() -> impl Strategy<Value = Filling> {
    let text = || "\\PC{0,12}";
    let texts = [text(), text(), text()];
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    // Small numbers are valid in all enums, and no zero is left off the wire too often.
    (
        texts,
        bytes,
        any::<bool>(),
        -1e9..1e9f64,
        1..3i32,
        0usize..1000,
    )
        .prop_map(|(texts, bytes, flag, number, small, choice)| Filling {
            texts,
            bytes,
            flag,
            number,
            small,
            choice,
        })
}

/// The messages of one set of generated types; `rest` are the fields that only Envoy's have.
macro_rules! messages {
    ($name:ident, $root:path, $google:path, { $($rest:tt)* }) => {
        mod $name {
            use $root as root;
            use $google as google;
            use root::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, Metadata};
            use root::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
            use root::envoy::r#type::v3::HttpStatus;
            use root::envoy::service::ext_proc::v3::body_mutation::Mutation;
            use root::envoy::service::ext_proc::v3::processing_request::Request;
            use root::envoy::service::ext_proc::v3::processing_response::Response;
            use root::envoy::service::ext_proc::v3::streamed_immediate_response as streamed;
            use root::envoy::service::ext_proc::v3::*;
            use super::Filling;

            pub(super) fn request(f: &Filling) -> ProcessingRequest {
                ProcessingRequest {
                    request: Some(match f.choice % 6 {
                        0 => Request::RequestHeaders(http_headers(f)),
                        1 => Request::ResponseHeaders(http_headers(f)),
                        2 => Request::RequestBody(http_body(f)),
                        3 => Request::ResponseBody(http_body(f)),
                        4 => Request::RequestTrailers(http_trailers(f)),
                        _ => Request::ResponseTrailers(http_trailers(f)),
                    }),
                    metadata_context: Some(Metadata {
                        filter_metadata: [(f.texts[0].clone(), structure(f))].into(),
                        $($rest)*
                    }),
                    observability_mode: f.flag,
                    protocol_config: Some(ProtocolConfiguration {
                        request_body_mode: f.small,
                        response_body_mode: f.small + 2,
                        send_body_without_waiting_for_header_response: !f.flag,
                    }),
                    $($rest)*
                }
            }

            pub(super) fn response(f: &Filling) -> ProcessingResponse {
                ProcessingResponse {
                    response: Some(match f.choice % 10 {
                        0 => Response::RequestHeaders(HeadersResponse { response: Some(common(f)) }),
                        1 => Response::ResponseHeaders(HeadersResponse { response: Some(common(f)) }),
                        2 => Response::RequestBody(BodyResponse { response: Some(common(f)) }),
                        3 => Response::ResponseBody(BodyResponse { response: Some(common(f)) }),
                        4 => Response::RequestTrailers(TrailersResponse { header_mutation: Some(mutation(f)) }),
                        5 => Response::ResponseTrailers(TrailersResponse { header_mutation: Some(mutation(f)) }),
                        6 => Response::ImmediateResponse(ImmediateResponse {
                            status: Some(HttpStatus { code: 200 + f.small }),
                            headers: Some(mutation(f)),
                            body: f.bytes.clone().into(),
                            details: f.texts[1].clone(),
                            $($rest)*
                        }),
                        other => Response::StreamedImmediateResponse(StreamedImmediateResponse {
                            response: Some(match other {
                                7 => streamed::Response::HeadersResponse(http_headers(f)),
                                8 => streamed::Response::BodyResponse(piece(f)),
                                _ => streamed::Response::TrailersResponse(header_map(f)),
                            }),
                        }),
                    }),
                    dynamic_metadata: Some(structure(f)),
                    mode_override: Some(ProcessingMode {
                        request_header_mode: f.small,
                        response_header_mode: f.small + 1,
                        request_body_mode: f.small + 2,
                        response_body_mode: f.small + 3,
                        request_trailer_mode: f.small + 4,
                        response_trailer_mode: f.small + 5,
                    }),
                    override_message_timeout: Some(google::Duration {
                        seconds: i64::from(f.small),
                        nanos: f.small + 1,
                    }),
                    $($rest)*
                }
            }

            fn common(f: &Filling) -> CommonResponse {
                CommonResponse {
                    status: f.small,
                    header_mutation: Some(mutation(f)),
                    body_mutation: Some(BodyMutation {
                        mutation: Some(match f.choice % 3 {
                            0 => Mutation::Body(f.bytes.clone().into()),
                            1 => Mutation::ClearBody(true),
                            _ => Mutation::StreamedResponse(piece(f)),
                        }),
                    }),
                    clear_route_cache: f.flag,
                    $($rest)*
                }
            }

            fn mutation(f: &Filling) -> HeaderMutation {
                HeaderMutation {
                    set_headers: header_map(f)
                        .headers
                        .into_iter()
                        .map(|header| HeaderValueOption {
                            header: Some(header),
                            append_action: f.small,
                            $($rest)*
                        })
                        .collect(),
                    remove_headers: f.texts.to_vec(),
                }
            }

            fn piece(f: &Filling) -> StreamedBodyResponse {
                StreamedBodyResponse {
                    body: f.bytes.clone().into(),
                    end_of_stream: f.flag,
                    end_of_stream_without_message: !f.flag,
                    grpc_message_compressed: f.flag,
                    $($rest)*
                }
            }

            fn http_headers(f: &Filling) -> HttpHeaders {
                HttpHeaders {
                    headers: Some(header_map(f)),
                    end_of_stream: f.flag,
                    $($rest)*
                }
            }

            fn http_body(f: &Filling) -> HttpBody {
                HttpBody {
                    body: f.bytes.clone().into(),
                    end_of_stream: f.flag,
                    end_of_stream_without_message: !f.flag,
                    grpc_message_compressed: f.flag,
                    $($rest)*
                }
            }

            fn http_trailers(f: &Filling) -> HttpTrailers {
                HttpTrailers { trailers: Some(header_map(f)) }
            }

            fn header_map(f: &Filling) -> HeaderMap {
                let header = |(key, value): (&String, &String)| HeaderValue {
                    key: key.clone(),
                    value: value.clone(),
                    raw_value: f.bytes.clone().into(),
                };
                HeaderMap {
                    headers: f.texts.iter().zip(f.texts.iter().rev()).map(header).collect(),
                }
            }

            fn structure(f: &Filling) -> google::Struct {
                use google::value::Kind;
                let list = [
                    Kind::NullValue(0),
                    Kind::BoolValue(f.flag),
                    Kind::StringValue(f.texts[1].clone()),
                    Kind::NumberValue(f.number),
                ];
                let list = list.map(|kind| google::Value { kind: Some(kind) }).to_vec();
                let kind = Some(Kind::ListValue(google::ListValue { values: list }));
                let inner = google::Struct {
                    fields: [(f.texts[2].clone(), google::Value { kind })].into(),
                };
                let kind = Some(Kind::StructValue(inner));
                google::Struct {
                    fields: [(f.texts[0].clone(), google::Value { kind })].into(),
                }
            }
        }
    };
}

messages!(ours, pointsman::proto, prost_types, {});
messages!(
    envoys,
    envoy_types::pb,
    envoy_types::pb::google::protobuf,
    { ..Default::default() }
);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn requests_are_envoys(f in filling()) {
        let (ours, envoys) = (ours::request(&f), envoys::request(&f));
        prop_assert_eq!(ours.encode_to_vec(), envoys.encode_to_vec());
        let read = Message::decode(&envoys.encode_to_vec()[..]).unwrap();
        prop_assert_eq!(&ours, &read);
        let read = Message::decode(&ours.encode_to_vec()[..]).unwrap();
        prop_assert_eq!(&envoys, &read);
    }

    #[test]
    fn responses_are_envoys(f in filling()) {
        let (ours, envoys) = (ours::response(&f), envoys::response(&f));
        prop_assert_eq!(ours.encode_to_vec(), envoys.encode_to_vec());
        let read = Message::decode(&envoys.encode_to_vec()[..]).unwrap();
        prop_assert_eq!(&ours, &read);
        let read = Message::decode(&ours.encode_to_vec()[..]).unwrap();
        prop_assert_eq!(&envoys, &read);
    }
}

/// Every value that ours has is the value of that number in Envoy's.
macro_rules! same_numbers {
    ($($path:ident)::+) => {
        use envoy_types::pb as envoys;
        use pointsman::proto as ours;
        let mut values = 0;
        for number in -1..100 {
            let Ok(value) = ours::envoy::$($path)::+::try_from(number) else { continue };
            let envoys = envoys::envoy::$($path)::+::try_from(number).unwrap();
            assert_eq!(value.as_str_name(), envoys.as_str_name());
            values += 1;
        }
        assert!(values > 1, "{}: {values} values", stringify!($($path)::+));
    };
}

#[test]
fn enums_are_envoys() {
    {
        same_numbers!(config::core::v3::header_value_option::HeaderAppendAction);
    }
    {
        same_numbers!(extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode);
    }
    {
        same_numbers!(extensions::filters::http::ext_proc::v3::processing_mode::HeaderSendMode);
    }
    {
        same_numbers!(service::ext_proc::v3::common_response::ResponseStatus);
    }
}

/// What we do not know of does not keep us from reading the rest.
#[test]
fn fields_of_newer_envoys_are_passed_over() {
    use envoy_types::pb::envoy::service::ext_proc::v3 as newest;
    let f = Filling {
        texts: ["a", "b", "c"].map(str::to_owned),
        bytes: vec![1],
        flag: true,
        number: 1.0,
        small: 1,
        choice: 0,
    };
    let newer = newest::ProcessingRequest {
        attributes: [("x".to_owned(), Default::default())].into(),
        flow_control_init: Some(Default::default()),
        ..envoys::request(&f)
    };
    let read = Message::decode(&newer.encode_to_vec()[..]).unwrap();
    assert_eq!(ours::request(&f), read);
}
