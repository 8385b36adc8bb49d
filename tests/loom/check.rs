//! How models are explored: those of the allocator and those of object pools.

/// Explores every interleaving of `model`.
pub(crate) fn check(model: impl Fn() + Sync + Send + 'static) {
    explore(None, model);
}

/// Explores the interleavings of `model` with at most `preemptions` preemptions: switches away from a thread that could
/// go on.
pub(crate) fn check_bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(Some(preemptions), model);
}

fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` has precedence, for a deeper look at one model.
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    let counter = executions.clone();
    builder.check(move || {
        // Relaxed: one execution runs at a time.
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{} executions", executions.load(std::sync::atomic::Ordering::Relaxed));
}
