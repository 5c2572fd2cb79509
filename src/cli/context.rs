//! What every command works with: the daemon, the terminal and the options of the whole command
//! line. Nothing else in this room touches stdin, stdout or stderr.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};

use jiff::Timestamp;
use serde_json::Value;

use super::client::Client;
use super::failure::{Exit, Failure, Result};
use super::output::Format;
use super::text::{safe, safe_json, safe_lines};
use super::yaml::to_yaml;

/// The three standard streams and what is known of them.
pub struct Terminal {
    pub out: Box<dyn Write>,
    pub err: Box<dyn Write>,
    pub input: Box<dyn BufRead>,
    pub out_is_tty: bool,
    pub err_is_tty: bool,
    pub in_is_tty: bool,
    pub color: bool,
    /// The command that edits a file, as a shell reads it.
    pub editor: String,
}

impl Terminal {
    /// The process's own streams. Colour only on a terminal, and where `NO_COLOR` does not forbid
    /// it (<https://no-color.org>).
    pub fn standard() -> Self {
        let out_is_tty = io::stdout().is_terminal();
        let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Terminal {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::BufReader::new(io::stdin())),
            out_is_tty,
            err_is_tty: io::stderr().is_terminal(),
            in_is_tty: io::stdin().is_terminal(),
            color: out_is_tty && !forbidden,
            editor: ["VISUAL", "EDITOR"]
                .into_iter()
                .find_map(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))
                .unwrap_or_else(|| "vi".to_owned()),
        }
    }
}

/// One run of the command line.
pub struct Context {
    pub client: Client,
    pub terminal: Terminal,
    pub format: Format,
    /// When the run began: what ages are counted from.
    pub now: Timestamp,
}

impl Context {
    /// A run that has not done anything yet.
    pub fn new(client: Client, terminal: Terminal, format: Format) -> Self {
        Context { client, terminal, format, now: Timestamp::now() }
    }

    /// Writes text for people to stdout, as it is: whoever made it has made it safe.
    ///
    /// # Errors
    /// Those of writing; [`Failure::from`] a closed pipe is quiet.
    pub fn print(&mut self, text: &str) -> Result<()> {
        self.terminal.out.write_all(text.as_bytes())?;
        self.terminal.out.flush()?;
        Ok(())
    }

    /// Writes a document (XML, a reply's body): byte by byte into a file or a pipe, made safe on a
    /// terminal.
    ///
    /// # Errors
    /// Those of writing.
    pub fn print_document(&mut self, document: &[u8]) -> Result<()> {
        if self.terminal.out_is_tty {
            let text = String::from_utf8_lossy(document);
            let end = if text.ends_with('\n') { "" } else { "\n" };
            return self.print(&format!("{}{end}", safe_lines(&text)));
        }
        self.terminal.out.write_all(document)?;
        self.terminal.out.flush()?;
        Ok(())
    }

    /// Writes a value of the API as JSON or YAML.
    ///
    /// # Errors
    /// Those of writing.
    pub fn print_value(&mut self, value: &Value) -> Result<()> {
        let text = match self.format {
            Format::Yaml => to_yaml(value),
            Format::Table | Format::Wide | Format::Json | Format::Name => {
                let json = serde_json::to_string_pretty(value).map_err(Failure::unintelligible)?;
                format!("{}\n", safe_json(&json))
            }
        };
        self.print(&text)
    }

    /// Writes a value as one line of JSON: an entry of a stream.
    ///
    /// # Errors
    /// Those of writing.
    pub fn print_line(&mut self, value: &Value) -> Result<()> {
        self.print(&format!("{}\n", safe_json(&value.to_string())))
    }

    /// Tells something beside the result, on stderr. That nobody can read it is no failure.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.terminal.err, "{}", safe_lines(text));
        let _ = self.terminal.err.flush();
    }

    /// Shows a failure on stderr.
    pub fn report(&mut self, failure: &Failure) {
        let _ = self.terminal.err.write_all(failure.render().as_bytes());
        let _ = self.terminal.err.flush();
    }

    /// Asks before something is destroyed: `question` ends with a question mark, `without` says
    /// what would have been done. `--yes` answers in advance.
    ///
    /// # Errors
    /// [`Exit::Refused`] where the answer is no, or where there is nobody to ask.
    pub fn confirm(&mut self, yes: bool, without: &str, question: &str) -> Result<()> {
        self.can_confirm(yes, without)?;
        if yes {
            return Ok(());
        }
        write!(self.terminal.err, "{} [y/N] ", safe(question))?;
        self.terminal.err.flush()?;
        let mut answer = String::new();
        self.terminal.input.read_line(&mut answer).map_err(|error| {
            Failure::new(Exit::Refused, format!("the answer cannot be read: {error}"))
        })?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::new(Exit::Refused, "not confirmed; nothing was changed")),
        }
    }

    /// Refuses early what [`Context::confirm`] would refuse for want of a terminal, before the
    /// daemon is asked anything.
    ///
    /// # Errors
    /// [`Exit::Refused`].
    pub fn can_confirm(&self, yes: bool, without: &str) -> Result<()> {
        if yes || (self.terminal.in_is_tty && self.terminal.err_is_tty) {
            return Ok(());
        }
        Err(Failure::new(Exit::Refused, format!("{without} needs a confirmation"))
            .with_hint("there is no terminal to ask on: say --yes"))
    }

    /// The text in an ANSI style, if colour is wanted.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.terminal.color {
            format!("\u{1b}[{}m{text}\u{1b}[0m", style as u8)
        } else {
            text.to_owned()
        }
    }
}

/// The styles in use, with their SGR codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Bold = 1,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}
