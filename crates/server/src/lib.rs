//! The service: gRPC, REST and the documents over one seam, [`calls::Calls`], and what they serve.

pub mod calls;
pub mod config;
pub mod demo;
pub mod grpc;
pub mod http;
pub mod inventory;
pub mod logging;
pub mod metrics;
pub mod openapi;
pub mod rest;
pub mod run;
pub mod service;
pub mod status;
