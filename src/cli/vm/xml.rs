//! `vapor vm xml`: the definition, for those who need it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use http::header::{ACCEPT, IF_MATCH};
use uuid::Uuid;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, Ended, dry_run, perform, show_done};
use super::super::output::{Format, read};
use super::super::plan;
use super::super::suggest::Meant;
use super::super::text::quoted;
use super::spec::read_file;
use crate::model::Plan;

/// Show the definition, or do one of the commands.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct XmlArgs {
    #[command(subcommand)]
    pub command: Option<XmlCommand>,
    /// Name or UUID
    #[arg(value_name = "VM", required = true, value_parser = super::vm_name())]
    pub name: Option<String>,
    /// What the next boot uses, instead of what runs
    #[arg(long)]
    pub inactive: bool,
}

/// What else can be done with the definition.
#[derive(Subcommand, Debug)]
pub enum XmlCommand {
    /// Show it: the same as without a command, also for a VM called "set" or "edit"
    Get(GetArgs),
    /// Replace it with that of a file
    Set(SetArgs),
    /// Change it in $VISUAL or $EDITOR
    Edit(EditArgs),
}

/// Which definition is shown.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// What the next boot uses, instead of what runs
    #[arg(long)]
    pub inactive: bool,
}

/// What replaces the definition.
#[derive(Args, Debug)]
pub struct SetArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// The file with the new definition, - for stdin
    #[arg(long, short, value_name = "FILE")]
    pub file: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Whose definition is edited.
#[derive(Args, Debug)]
pub struct EditArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Runs one of the commands.
pub async fn run(cx: &mut Context, args: &XmlArgs) -> Result<()> {
    match (&args.command, &args.name) {
        (Some(XmlCommand::Get(args)), _) => get(cx, &args.name, args.inactive).await,
        (Some(XmlCommand::Set(args)), _) => {
            let result = set(cx, args).await;
            Meant::Vm(&args.name).checked(cx, result).await
        }
        (Some(XmlCommand::Edit(args)), _) => {
            let result = edit(cx, args).await;
            Meant::Vm(&args.name).checked(cx, result).await
        }
        (None, Some(name)) => get(cx, name, args.inactive).await,
        (None, None) => Err(Failure::new(Exit::Refused, "no virtual machine was named")),
    }
}

async fn get(cx: &mut Context, name: &str, inactive: bool) -> Result<()> {
    let definition = fetch(cx, name, inactive).await;
    let definition = Meant::Vm(name).checked(cx, definition).await?;
    if cx.format.is_data() {
        return cx.print_value(&serde_json::json!({"xml": definition}));
    }
    cx.print_document(definition.as_bytes())
}

async fn fetch(cx: &Context, name: &str, inactive: bool) -> Result<String> {
    let mut request = Request::get(vm_path(name, "/xml"))
        .header(ACCEPT, "application/xml, application/json;q=0.9");
    if inactive {
        request = request.query("inactive", "true");
    }
    let reply = cx.client.send(&request).await?.checked()?;
    let xml = if reply.is_json() {
        let data = reply.data()?;
        let text = data.as_str().or_else(|| data.get("xml")?.as_str());
        text.ok_or_else(|| Failure::unintelligible("its data holds no xml"))?.to_owned()
    } else {
        String::from_utf8(reply.body.to_vec()).map_err(Failure::unintelligible)?
    };
    Ok(xml)
}

fn replacement(name: &str, xml: String, etag: Option<&str>) -> Request {
    let request = Request::new(Method::PUT, vm_path(name, "/xml")).body("application/xml", xml);
    match etag {
        Some(etag) => request.header(IF_MATCH, etag),
        None => request,
    }
}

async fn set(cx: &mut Context, args: &SetArgs) -> Result<()> {
    let without = "replacing a definition";
    cx.can_confirm(args.yes || args.change.dry_run, without)?;
    if args.file == "-" && !(args.yes || args.change.dry_run) {
        return Err(Failure::new(Exit::Refused, format!("{without} needs a confirmation"))
            .with_hint("stdin holds the definition and cannot answer: say --yes"));
    }
    let xml = read_file(cx, &args.file)?;
    let request = replacement(&args.name, xml, None);
    if !(args.yes || args.change.dry_run) {
        ask(cx, request.clone(), &args.name).await?;
    }
    send(cx, request, &args.name, &args.change).await
}

/// Shows what would change, and asks.
async fn ask(cx: &mut Context, request: Request, name: &str) -> Result<()> {
    let plan: Plan = read(dry_run(cx, request).await?)?;
    if !matches!(cx.format, Format::Json | Format::Yaml | Format::Name) {
        let text = plan::render(cx, &plan);
        cx.print(&text)?;
    }
    plan::refuse_blocked(&plan)?;
    cx.confirm(
        false,
        "replacing a definition",
        &format!("replace the definition of {}?", quoted(name)),
    )
}

async fn send(cx: &mut Context, request: Request, name: &str, change: &ChangeArgs) -> Result<()> {
    match perform(cx, request, change).await? {
        Ended::Done(data) => show_done(cx, &data, name, "redefined"),
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

async fn edit(cx: &mut Context, args: &EditArgs) -> Result<()> {
    // the version before the definition: if it changes in between, replacing it is refused
    let reply = cx.client.send(&Request::get(vm_path(&args.name, ""))).await?.checked()?;
    let definition = fetch(cx, &args.name, true).await?;
    let draft = Draft::new(&definition)?;
    loop {
        open_editor(&cx.terminal.editor, draft.path())?;
        let xml = fs::read_to_string(draft.path()).map_err(|error| {
            Failure::new(Exit::Refused, format!("cannot read what was edited: {error}"))
        })?;
        if xml == definition {
            cx.note("nothing was changed");
            return Ok(());
        }
        let request = replacement(&args.name, xml, reply.etag());
        let asked = if args.yes || args.change.dry_run {
            Ok(())
        } else {
            ask(cx, request.clone(), &args.name).await
        };
        let result = match asked {
            Ok(()) => send(cx, request, &args.name, &args.change).await,
            Err(failure) => Err(failure),
        };
        let Err(failure) = result else { return Ok(()) };
        if failure.code.is_none() || cx.can_confirm(false, "editing again").is_err() {
            return Err(failure.with_note(format!("what was edited is kept in {}", draft.keep())));
        }
        cx.report(&failure);
        if cx.confirm(false, "editing again", "edit it again?").is_err() {
            let kept = draft.keep();
            cx.note(&format!("what was edited is kept in {kept}"));
            return Err(Failure::silent(failure.exit));
        }
    }
}

/// The file being edited: readable by its owner alone, gone at the end unless it is kept.
struct Draft {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Draft {
    fn new(xml: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("vapor-{}.xml", Uuid::new_v4()));
        let refuse = |error: std::io::Error| {
            Failure::new(Exit::Refused, format!("cannot write {}: {error}", path.display()))
        };
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(refuse)?;
        file.write_all(xml.as_bytes()).map_err(refuse)?;
        Ok(Draft { path, kept: std::cell::Cell::new(false) })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&self) -> String {
        self.kept.set(true);
        self.path.display().to_string()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept.get() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Runs the editor on a file. Its command may hold arguments, so a shell reads it.
fn open_editor(editor: &str, path: &Path) -> Result<()> {
    let refuse = |why: String| {
        Failure::new(Exit::Refused, format!("the editor {editor:?} {why}; nothing was changed"))
            .with_hint("name another one in EDITOR")
    };
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("vapor")
        .arg(path)
        .status()
        .map_err(|error| refuse(format!("cannot be run: {error}")))?;
    if status.success() { Ok(()) } else { Err(refuse(format!("ended with {status}"))) }
}
