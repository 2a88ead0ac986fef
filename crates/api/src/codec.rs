//! How messages that are known by descriptor alone travel over gRPC: one codec for both ends.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::error::{Code, Error};

/// Writes any message, and reads messages of one type: requests on a server, answers on a client.
#[derive(Clone, Debug)]
pub struct DynamicCodec {
    reads: MessageDescriptor,
    refuse: fn(&Error) -> Status,
}

impl DynamicCodec {
    /// A codec that reads messages of this type.
    pub fn new(reads: MessageDescriptor) -> Self {
        let refuse = |error: &Error| Status::invalid_argument(error.message.clone());
        Self { reads, refuse }
    }

    /// The same codec, with a status of the caller's making for bytes that are no such message:
    /// a server's errors have details.
    #[must_use]
    pub fn refusing(self, refuse: fn(&Error) -> Status) -> Self {
        Self { refuse, ..self }
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
            let text = format!("the bytes are not a {name}: {e}");
            (self.refuse)(&Error::new(Code::InvalidArgument, text))
        })?;
        Ok(Some(message))
    }
}
