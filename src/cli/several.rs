//! The same change to several things, one after the other, whatever becomes of the others.

use clap::Args;

use super::client::Request;
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::operation::{ChangeArgs, ask, change};
use super::suggest::Meant;

/// Options of every deletion.
#[derive(Args, Debug)]
pub struct DeletionArgs {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

impl DeletionArgs {
    fn asks_nothing(&self) -> bool {
        self.yes || self.change.dry_run
    }
}

/// One of several things that are to go.
pub struct Victim<'a> {
    pub meant: Meant<'a>,
    pub request: Request,
    /// What is asked once the plan has been shown.
    pub question: String,
}

/// Sends each its request, and shows what became of it.
///
/// # Errors
/// The first failure's exit code; what ends all of it (see [`Tally::add`]).
pub async fn change_each<'a>(
    cx: &mut Context,
    requests: impl Iterator<Item = (Meant<'a>, Request)>,
    args: &ChangeArgs,
    words: &str,
) -> Result<()> {
    let mut tally = Tally::default();
    for (meant, request) in requests {
        let result = change(cx, request, args, meant, &meant.to_string(), words).await;
        tally.add(cx, result)?;
    }
    tally.end()
}

/// Deletes each, after asking for it with what would go; `what` is what needs the confirmation.
///
/// # Errors
/// Those of [`change_each`]; at once if nobody can be asked.
pub async fn delete_each<'a>(
    cx: &mut Context,
    what: &str,
    victims: impl Iterator<Item = Victim<'a>>,
    args: &DeletionArgs,
) -> Result<()> {
    cx.can_confirm(args.asks_nothing(), what)?;
    let mut tally = Tally::default();
    for victim in victims {
        let result = delete(cx, what, victim, args).await;
        tally.add(cx, result)?;
    }
    tally.end()
}

async fn delete(
    cx: &mut Context,
    what: &str,
    Victim { meant, request, question }: Victim<'_>,
    args: &DeletionArgs,
) -> Result<()> {
    if !args.asks_nothing() {
        ask(cx, request.clone(), meant, what, &question).await?;
    }
    change(cx, request, &args.change, meant, &meant.to_string(), "deleted").await
}

/// Goes on after a failure with one of several things, and remembers the first one's exit code.
#[derive(Default)]
struct Tally {
    failed: Option<Exit>,
}

impl Tally {
    /// Shows the failure, if there is one.
    ///
    /// # Errors
    /// A failure that ends the rest, too: Ctrl-C, or a daemon that cannot be reached.
    fn add(&mut self, cx: &mut Context, result: Result<()>) -> Result<()> {
        match result {
            Err(failure) => match failure.exit {
                Exit::Interrupted | Exit::Unreachable => Err(failure),
                // nobody reads the output any more; the rest is to be done all the same
                Exit::Ok => Ok(()),
                exit => {
                    cx.report(&failure);
                    self.failed.get_or_insert(exit);
                    Ok(())
                }
            },
            Ok(()) => Ok(()),
        }
    }

    /// The exit code of the first failure.
    ///
    /// # Errors
    /// If there was one; it has been shown already.
    fn end(self) -> Result<()> {
        self.failed.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
    }
}
