//! Programs that answer requests: async tasks and channels, full-text search.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    ASYNC_ALIVE, ASYNC_TASKS, SEARCH_DOCUMENTS, SEARCH_ROUNDS, SEARCH_WORDS, SEED, Scale,
};
use probly_search::Index;
use probly_search::score::bm25;
use std::borrow::Cow;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

/// Requests over a channel, each handled by a task of its own that replies over a one-shot.
pub fn async_tasks(scale: Scale) -> Outcome {
    let tasks = scale.of(ASYNC_TASKS);
    let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    measure(tasks, || {
        runtime.block_on(async {
            let (requests, mut inbox) = mpsc::channel::<(String, oneshot::Sender<Vec<u8>>)>(64);
            let server = tokio::spawn(async move {
                while let Some((request, reply)) = inbox.recv().await {
                    tokio::spawn(async move { reply.send(request.repeat(2).into_bytes()) });
                }
            });
            let client = tokio::spawn(async move {
                let mut sum = 0;
                for first in (0..tasks).step_by(ASYNC_ALIVE) {
                    let mut replies = Vec::with_capacity(ASYNC_ALIVE);
                    for number in first..tasks.min(first + ASYNC_ALIVE) {
                        let (sender, reply) = oneshot::channel();
                        let request = (format!("request {number}"), sender);
                        assert!(requests.send(request).await.is_ok(), "the server listens");
                        replies.push(reply);
                    }
                    for reply in replies {
                        sum += reply.await.expect("a reply").len() as u64;
                    }
                }
                sum
            });
            let sum = client.await.expect("the client");
            server.await.expect("the server");
            sum
        })
    })
}

struct Document {
    text: String,
}

/// A full-text index: documents in, queries, some documents out again.
pub fn search_memory(scale: Scale) -> Outcome {
    fn words(text: &str) -> Vec<Cow<'_, str>> {
        text.split(' ').map(Cow::from).collect()
    }
    fn fields(document: &Document) -> Vec<&str> {
        vec![&document.text]
    }
    let rounds = scale.of(SEARCH_ROUNDS);
    let mut random = Random::new(SEED);
    let word = |number: usize| format!("{:x}", number * 0x9E37 % 0xF_FFFF);
    let documents: Vec<Document> = (0..SEARCH_DOCUMENTS)
        .map(|_| {
            // The smallest of three: few words are frequent, many are rare.
            let mut number = || (0..3).map(|_| random.below(SEARCH_WORDS)).min().unwrap_or(0);
            Document { text: (0..60).map(|_| word(number())).collect::<Vec<_>>().join(" ") }
        })
        .collect();
    measure(rounds * SEARCH_DOCUMENTS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            let mut index = Index::<usize>::new(1);
            for (key, document) in documents.iter().enumerate() {
                index.add_document(&[fields], words, key, document);
            }
            for first in (0..SEARCH_WORDS).step_by(40) {
                let query = format!("{} {}", word(first), word(first / 2));
                let found = index.query(&query, &mut bm25::new(), words, &[1.0]);
                // Hits of the same score come in any order.
                sum += found.iter().map(|hit| hit.key as u64 + 1).sum::<u64>();
            }
            (0..SEARCH_DOCUMENTS).step_by(5).for_each(|key| index.remove_document(key));
            index.vacuum();
        }
        sum
    })
}
