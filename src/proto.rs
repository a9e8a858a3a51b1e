//! The wire contracts, generated from `proto/` at build time. Names are Envoy's own.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

pub mod codec;

/// `envoy.*`
pub mod envoy {
    /// `envoy.config.*`
    pub mod config {
        /// `envoy.config.core.*`
        pub mod core {
            /// Headers and metadata.
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    /// `envoy.extensions.*`
    pub mod extensions {
        /// `envoy.extensions.filters.*`
        pub mod filters {
            /// `envoy.extensions.filters.http.*`
            pub mod http {
                /// `envoy.extensions.filters.http.ext_proc.*`
                pub mod ext_proc {
                    /// Processing modes.
                    pub mod v3 {
                        tonic::include_proto!("envoy.extensions.filters.http.ext_proc.v3");
                    }
                }
            }
        }
    }
    /// `envoy.service.*`
    pub mod service {
        /// `envoy.service.ext_proc.*`
        pub mod ext_proc {
            /// The external processor service and its messages.
            pub mod v3 {
                tonic::include_proto!("envoy.service.ext_proc.v3");
            }
        }
    }
    /// `envoy.type.*`
    pub mod r#type {
        /// HTTP status.
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

/// `grpc.health.v1`
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The external processor messages, under a short name.
pub use envoy::service::ext_proc::v3 as ext_proc;
