//! Programs that send messages: HTTP requests and answers, CBOR.

use super::lanes::share_out;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, ETAG, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use peers::params::{
    CBOR_MESSAGES, CBOR_ROUNDS, HTTP_BODIES, HTTP_BODY_BYTES, HTTP_CONNECTIONS, HTTP_PIPE_BYTES,
    HTTP_REQUESTS, SEED, Scale,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::runtime::Builder;

/// The server's work: it takes the whole body and answers with another one.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let answer = Response::builder()
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(ETAG, format!("\"{}-{:x}\"", path.len(), body.len()))
        .header("x-path", path)
        .body(Full::new(Bytes::from(body.to_ascii_uppercase())));
    Ok(answer.expect("valid headers"))
}

/// One connection from its start to its end; returns the bytes of the answers.
async fn connection(number: usize, bodies: &[Bytes]) -> hyper::Result<u64> {
    let (near, far) = tokio::io::duplex(HTTP_PIPE_BYTES);
    let served = tokio::spawn(
        server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(answer)),
    );
    let (mut sender, driver) = client::conn::http1::handshake(TokioIo::new(near)).await?;
    let driven = tokio::spawn(driver);
    let mut sum = 0;
    for request in 0..HTTP_REQUESTS {
        let body = bodies[(number * HTTP_REQUESTS + request) % bodies.len()].clone();
        let request = Request::post(format!("/documents/{number}/parts/{request}?draft=true"))
            .header(USER_AGENT, "a client")
            .header("host", "a.example")
            .header("x-request-id", format!("{number:08x}-{request:08x}"))
            .body(Full::new(body))
            .expect("a valid request");
        let answer = sender.send_request(request).await?;
        let headers: usize =
            ["x-path", "etag"].map(|name| answer.headers()[name].len()).iter().sum();
        let body = answer.into_body().collect().await?.to_bytes();
        sum += headers as u64 + body.len() as u64 + u64::from(body[body.len() / 2]);
    }
    drop(sender);
    driven.await.expect("the client's end")?;
    served.await.expect("the server's end")?;
    Ok(sum)
}

/// Client and server over a pipe in memory; each thread has a runtime of its own.
pub fn http<const THREADS: usize>(scale: Scale) -> Outcome {
    let connections = scale.of(HTTP_CONNECTIONS);
    let mut random = Random::new(SEED);
    let bodies: Vec<Bytes> = (0..HTTP_BODIES)
        .map(|_| {
            let bytes = random.between(HTTP_BODY_BYTES);
            Bytes::from(random.text(bytes))
        })
        .collect();
    measure(connections * HTTP_REQUESTS, || {
        share_out::<THREADS>(THREADS, |thread| {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            let numbers = (thread..connections).step_by(THREADS);
            let one = |number| runtime.block_on(connection(number, &bodies)).expect("answers");
            numbers.map(one).sum()
        })
    })
}

/// What a device reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    id: u64,
    device: String,
    position: (f64, f64),
    tags: BTreeMap<String, String>,
    samples: Vec<u32>,
    events: Vec<Event>,
    remark: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    Started { at: u64 },
    Failed { at: u64, reason: String },
    Stopped,
}

fn report(random: &mut Random, id: u64) -> Report {
    let event = |random: &mut Random| match random.below(3) {
        0 => Event::Started { at: random.next() },
        1 => Event::Failed { at: random.next(), reason: random.text(80) },
        _ => Event::Stopped,
    };
    Report {
        id,
        device: format!("device number {id}"),
        position: (random.below(180) as f64 / 2.0, random.below(360) as f64 / 3.0),
        tags: (0..random.below(6)).map(|tag| (format!("tag-{tag}"), random.text(12))).collect(),
        samples: (0..random.between((16, 1_000))).map(|_| random.below(100_000) as u32).collect(),
        events: (0..random.below(12)).map(|_| event(random)).collect(),
        remark: (random.below(2) == 0).then(|| {
            let bytes = random.between((100, 2_000));
            random.text(bytes)
        }),
    }
}

/// Messages written to new buffers and read back.
pub fn cbor<const THREADS: usize>(scale: Scale) -> Outcome {
    let rounds = scale.of(CBOR_ROUNDS);
    let mut random = Random::new(SEED);
    let reports: Vec<Report> =
        (0..CBOR_MESSAGES as u64).map(|id| report(&mut random, id)).collect();
    measure(rounds * CBOR_MESSAGES, || {
        share_out::<THREADS>(rounds, |_| {
            let message = |report: &Report| {
                let mut message = Vec::new();
                ciborium::into_writer(report, &mut message).expect("memory takes it");
                let read: Report = ciborium::from_reader(message.as_slice()).expect("its own");
                message.len() as u64 + read.samples.len() as u64 + read.events.len() as u64
            };
            reports.iter().map(message).sum()
        })
    })
}
