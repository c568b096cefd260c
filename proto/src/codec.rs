//! The codec of every RPC.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a buffer begins with, in bytes; it grows as messages need. Most messages fit.
const BUFFER: usize = 256;

/// Encoded messages of a stream are sent together up to this size, as tonic's own codec does.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// Replaces [`tonic_prost::ProstCodec`], which begins with buffers of 8 KiB. An open response
/// stream keeps its buffer, and ten thousand idle watches kept 80 MB.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

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
        ProstEncoder::new(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER, YIELD_THRESHOLD)
}
