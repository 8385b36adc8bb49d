//! Programs that compress: many buffers, each with an encoder and a decoder of its own.

use super::lanes::share_out;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use peers::params::{
    COMPRESSION_BUFFER_BYTES, COMPRESSION_BUFFERS, DEFLATE_ROUNDS, LZ4_ROUNDS, SEED, Scale,
};
use std::io::{Read, Write};

fn buffers() -> Vec<String> {
    let mut random = Random::new(SEED);
    let buffer = |_| {
        let bytes = random.between(COMPRESSION_BUFFER_BYTES);
        random.text(bytes)
    };
    (0..COMPRESSION_BUFFERS).map(buffer).collect()
}

/// What depends on the whole buffer: its length and its last byte.
fn end(buffer: &[u8]) -> u64 {
    buffer.len() as u64 + u64::from(buffer[buffer.len() - 1])
}

/// Level 6, as programs have it that don't ask for another.
pub fn deflate<const THREADS: usize>(scale: Scale) -> Outcome {
    let rounds = scale.of(DEFLATE_ROUNDS);
    let buffers = buffers();
    measure(rounds * COMPRESSION_BUFFERS, || {
        share_out::<THREADS>(rounds * COMPRESSION_BUFFERS, |number| {
            let buffer = &buffers[number % COMPRESSION_BUFFERS];
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(buffer.as_bytes()).expect("memory takes it");
            let packed = encoder.finish().expect("memory takes it");
            let mut unpacked = Vec::new();
            ZlibDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).expect("its own");
            end(&packed) + end(&unpacked)
        })
    })
}

pub fn lz4(scale: Scale) -> Outcome {
    let rounds = scale.of(LZ4_ROUNDS);
    let buffers = buffers();
    measure(rounds * COMPRESSION_BUFFERS, || {
        let buffer = |buffer: &String| {
            let packed = lz4_flex::compress_prepend_size(buffer.as_bytes());
            let unpacked = lz4_flex::decompress_size_prepended(&packed).expect("its own");
            end(&packed) + end(&unpacked)
        };
        (0..rounds).flat_map(|_| &buffers).map(buffer).sum()
    })
}
