//! How messages become bytes: prost, with small buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes of each of a stream's two buffers to begin with; they grow with what is in them. tonic's 8 KiB would be 160 MiB
/// for 10,000 requests in flight, each of which waits for a response most of its time with both of them empty.
const BUFFER: usize = 1 << 10;
/// Encoded bytes that are sent without waiting for more: tonic's own.
const ENOUGH: usize = 32 << 10;

/// What the generated clients and servers use.
#[derive(Clone, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

// === impl Codec ===

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, ENOUGH))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, ENOUGH))
    }
}
