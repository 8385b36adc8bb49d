//! A bounded pool: three connections to a server of our own (on the loopback device) for many clients, who wait their
//! turn, give up after a while, and throw a broken connection away.
//!
//! ```sh
//! cargo run --release -p pymalloc-object-pool --example pool_connections
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pymalloc::Pymalloc;
use pymalloc_object_pool::{ObjectPool, Pooled};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const CONNECTIONS: usize = 3;
const CLIENTS: usize = 12;
const REQUESTS: usize = 400;

/// Answers each line with the same in capitals; closes a connection that says `quit`.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || -> io::Result<()> {
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            let mut stream = stream;
            while let Some(line) = lines.next().transpose()?.filter(|line| line != "quit") {
                stream.write_all(format!("{}\n", line.to_uppercase()).as_bytes())?;
            }
            Ok(())
        });
    }
}

/// Connects when it is first used, so that a failure is an error of `ask`, not a panic of the factory.
struct Connection {
    server: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    fn ask(&mut self, question: &str) -> io::Result<String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(BufReader::new(TcpStream::connect(self.server)?)),
        };
        stream.get_mut().write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        match stream.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer),
        }
    }
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let server = listener.local_addr()?;
    thread::spawn(move || serve(&listener));

    let pool = ObjectPool::builder(move || Connection { server, stream: None })
        .max_total(CONNECTIONS)
        .build()
        .expect("the numbers agree");
    let started = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let pool = &pool;
            scope.spawn(move || {
                for number in 0..REQUESTS {
                    let Ok(mut connection) = pool.acquire_timeout(Duration::from_secs(10)) else {
                        eprintln!("client {client}: no connection within ten seconds");
                        return;
                    };
                    let question = if number == 100 { "quit".into() } else { format!("question {number}") };
                    match connection.ask(&question) {
                        Ok(answer) => assert_eq!(answer.trim(), question.to_uppercase()),
                        // Broken: out of the pool, which makes another in its place.
                        Err(_) => drop(Pooled::detach(connection)),
                    }
                }
            });
        }
    });
    println!("{} requests by {CLIENTS} clients in {:.0?}", CLIENTS * REQUESTS, started.elapsed());
    println!("connections: {}", pool.stats());
    Ok(())
}
