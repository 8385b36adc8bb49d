//! Runs inputs again, without the fuzzer, and prints their programs: `cargo run --release --bin replay -- FILE…`

use std::process::ExitCode;

use pymalloc_fuzz::{Program, run};

fn main() -> ExitCode {
    let mut files = std::env::args_os().skip(1).peekable();
    if files.peek().is_none() {
        eprintln!("replay: name an input, for example one that the fuzzer left in artifacts/");
        return ExitCode::from(2);
    }
    for file in files {
        match std::fs::read(&file) {
            Ok(input) => {
                let program = Program::read(&input);
                println!("{}: {program:#?}", file.display());
                println!("{:?}", run(&program));
            }
            Err(error) => {
                eprintln!("replay: {}: {error}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}
