//! How messages that are known by descriptor alone travel over gRPC: one codec for both ends.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Writes any message, and reads messages of one type: requests on a server, answers on a client.
#[derive(Clone, Debug)]
pub struct DynamicCodec {
    reads: MessageDescriptor,
}

impl DynamicCodec {
    /// A codec that reads messages of this type.
    pub fn new(reads: MessageDescriptor) -> Self {
        Self { reads }
    }
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Writer;
    type Decoder = Self;

    fn encoder(&mut self) -> Writer {
        Writer(())
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

/// The writing half of a [`DynamicCodec`].
#[derive(Debug)]
pub struct Writer(());

impl Encoder for Writer {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out)
            .map_err(|e| Status::internal(format!("the message cannot be encoded: {e}")))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.reads.clone(), from).map_err(|e| {
            let name = self.reads.full_name();
            Status::invalid_argument(format!("the bytes are not a {name}: {e}"))
        })?;
        Ok(Some(message))
    }
}
