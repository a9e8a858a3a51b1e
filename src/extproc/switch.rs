//! Which processor a stream is for, where there are several.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use super::Processor;

/// How a stream was addressed.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The `:authority` of the gRPC call; empty if there is none.
    pub authority: &'a str,
    /// The metadata of the gRPC call.
    pub metadata: &'a HeaderMap,
}

/// Chooses the processor of each stream.
pub trait Switch: Send + Sync + 'static {
    /// What it chooses among.
    type Processor: Processor;

    /// Whether it matters how a stream was addressed.
    fn is_of_several(&self) -> bool;

    /// That of `call`; the error ends the stream.
    fn processor(&self, call: Call<'_>) -> Result<&Arc<Self::Processor>, Status>;
}

/// One for all streams.
impl<P: Processor> Switch for Arc<P> {
    type Processor = P;

    fn is_of_several(&self) -> bool {
        false
    }

    fn processor(&self, _: Call<'_>) -> Result<&Arc<P>, Status> {
        Ok(self)
    }
}
