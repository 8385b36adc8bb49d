//! Programs that do several things at a time: tasks that wait for timers, data split among threads.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    SEED, Scale, THREADS, TIMER_BATCH, TIMER_DEVICES, TIMER_READING_BYTES, TIMER_READINGS,
    WORDS_DOCUMENT_WORDS, WORDS_DOCUMENTS, WORDS_LINE, WORDS_ROUNDS,
};
use rayon::prelude::*;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Sends readings, with a rest before each.
async fn device(number: u64, readings: usize, sender: Sender<Vec<u8>>) {
    let mut random = Random::new(SEED + number);
    for _ in 0..readings {
        sleep(Duration::from_millis(1 + random.below(50) as u64)).await;
        let bytes = random.between(TIMER_READING_BYTES);
        let sending = sender.send(vec![random.next() as u8; bytes]);
        let sent = timeout(Duration::from_secs(60), sending).await;
        sent.expect("the collector is faster").expect("the collector listens");
    }
}

/// Joins readings to batches. A batch ends when it is full, or 20 ms after its first reading.
async fn collect(mut readings: Receiver<Vec<u8>>, batches: Sender<Vec<u8>>) {
    while let Some(first) = readings.recv().await {
        let end = Instant::now() + Duration::from_millis(20);
        let mut batch = vec![first];
        while batch.len() < TIMER_BATCH {
            // Too late, or no reading will come any more.
            let Ok(Some(reading)) = timeout_at(end, readings.recv()).await else { break };
            batch.push(reading);
        }
        batches.send(batch.concat()).await.expect("the writer listens");
    }
}

/// The clock stands still while a task can run, and then goes on to the next timer: no run waits.
pub fn timers(scale: Scale) -> Outcome {
    let readings = scale.of(TIMER_READINGS);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    measure(TIMER_DEVICES * readings, || {
        runtime.block_on(async {
            let (sender, receiver) = channel(64);
            let (batches, mut written) = channel::<Vec<u8>>(4);
            tokio::spawn(collect(receiver, batches));
            for number in 0..TIMER_DEVICES as u64 {
                tokio::spawn(device(number, readings, sender.clone()));
            }
            drop(sender);
            let mut sum = 0;
            while let Some(batch) = written.recv().await {
                // Does not depend on where a batch ends.
                sum += batch.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            }
            sum
        })
    })
}

/// Words of many documents: in lower case, sorted, each once, in lines.
pub fn words(scale: Scale) -> Outcome {
    let rounds = scale.of(WORDS_ROUNDS);
    let mut random = Random::new(SEED);
    let mut word = || format!("Word{:X}", random.below(1 << 14) * 0x9E37 % 0xF_FFFF);
    let documents: Vec<String> = (0..WORDS_DOCUMENTS)
        .map(|_| (0..WORDS_DOCUMENT_WORDS).map(|_| word()).collect::<Vec<_>>().join(" "))
        .collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("a pool");
    measure(rounds * WORDS_DOCUMENTS * WORDS_DOCUMENT_WORDS, || {
        let round = || {
            let mut words: Vec<String> = documents
                .par_iter()
                .flat_map_iter(|document| document.split(' ').map(str::to_lowercase))
                .collect();
            words.par_sort_unstable();
            words.dedup();
            let lines: Vec<String> =
                words.par_chunks(WORDS_LINE).map(|words| words.join(", ")).collect();
            let text = lines.join("\n");
            text.len() as u64 + lines.len() as u64 + words.len() as u64
        };
        (0..rounds).map(|_| pool.install(round)).sum()
    })
}
