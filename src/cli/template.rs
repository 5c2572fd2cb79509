//! `vapor template …`.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{Request, TEMPLATES, escape, vm_path};
use super::context::Context;
use super::failure::Result;
use super::operation::{ChangeArgs, change};
use super::output::{Column, Format, Listing, Sheet, fetch_list, read};
use super::several::{DeletionArgs, Victim, delete_each};
use super::suggest::Meant;
use super::text::{bytes, moment, or_none, quoted, safe};
use super::vm::{overlay, read_body, without_nulls};
use crate::model::Template;

/// What can be done with templates.
#[derive(Subcommand, Debug)]
pub enum TemplateCommand {
    /// List the templates
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one template
    Show(OneArgs),
    /// Create a template, of settings or of a stopped virtual machine
    Create(CreateArgs),
    /// Change a template
    Update(UpdateArgs),
    /// Delete templates
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Which templates are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those of this name; `*` stands for any text
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
}

/// One template.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// Name or id
    #[arg(value_name = "TEMPLATE", value_parser = NonEmptyStringValueParser::new())]
    pub template: String,
}

/// Free text and the least that its VMs have.
#[derive(Args, Debug)]
pub struct LeastArgs {
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// MiB that a virtual machine made of it has at least
    #[arg(long, value_name = "MIB")]
    pub min_memory: Option<u64>,
    /// Virtual CPUs that it has at least
    #[arg(long, value_name = "COUNT")]
    pub min_vcpus: Option<u32>,
    /// GiB that its first disk has at least
    #[arg(long, value_name = "GIB")]
    pub min_disk: Option<u64>,
}

impl LeastArgs {
    fn body(&self) -> Value {
        without_nulls(json!({
            "description": self.description,
            "min_memory": self.min_memory,
            "min_vcpus": self.min_vcpus,
            "min_disk": self.min_disk,
        }))
    }
}

/// What becomes a template.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// The template's name
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// The settings: a JSON (or .toml) file with the body of a new virtual machine, - for stdin
    #[arg(long, short, value_name = "FILE", required_unless_present = "from_vm")]
    pub file: Option<String>,
    /// A stopped virtual machine whose disks are copied
    #[arg(long, value_name = "VM", conflicts_with = "file",
        value_parser = NonEmptyStringValueParser::new())]
    pub from_vm: Option<String>,
    /// Make that machine's disks the template's instead of copying them; the machine is removed
    #[arg(long, requires = "from_vm")]
    pub convert: bool,
    /// The pool of the copies
    #[arg(long, requires = "from_vm", conflicts_with = "convert")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub least: LeastArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What changes.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Name or id
    #[arg(value_name = "TEMPLATE", value_parser = NonEmptyStringValueParser::new())]
    pub template: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Other settings: a JSON (or .toml) file, - for stdin
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub least: LeastArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which templates go.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Names or ids
    #[arg(value_name = "TEMPLATE", required = true,
        value_parser = NonEmptyStringValueParser::new())]
    pub templates: Vec<String>,
    /// Delete their disk images, too
    #[arg(long)]
    pub delete_volumes: bool,
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

const LISTING: Listing<'_, Template> = Listing {
    noun: "templates",
    name: |template| template.name.clone(),
    columns: &[
        Column::text("NAME", |template, _| template.name.clone()),
        Column::number("DISKS", |template, _| template.disks.len().to_string()),
        Column::text("CLONES", |template, _| or_none(Some(&template.linked_clones.join(",")))),
        Column::text("PROBLEMS", |template, _| or_none(Some(&problems(template)))),
        Column::wide("MADE OF", |template, _| or_none(template.source_vm.as_deref())),
        Column::wide("ID", |template, _| template.id.to_string()),
    ],
};

fn problems(template: &Template) -> String {
    let problems = template.problems.iter().map(|problem| problem.problem.as_str());
    problems.collect::<Vec<_>>().join("; ")
}

fn path(template: &str) -> String {
    format!("{TEMPLATES}/{}", escape(template))
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: TemplateCommand) -> Result<()> {
    match command {
        TemplateCommand::List(args) => {
            let request = Request::get(TEMPLATES).maybe("name", args.name.as_deref());
            let data = fetch_list(cx, request, "templates", None).await?;
            LISTING.show(cx, &data)
        }
        TemplateCommand::Show(args) => show(cx, &args.template).await,
        TemplateCommand::Create(args) => create(cx, &args).await,
        TemplateCommand::Update(args) => update(cx, &args).await,
        TemplateCommand::Delete(args) => delete(cx, &args).await,
    }
}

async fn data(cx: &Context, name: &str) -> Result<Value> {
    Meant::Template(name).fetch(cx, Request::get(path(name))).await
}

async fn show(cx: &mut Context, name: &str) -> Result<()> {
    let data = data(cx, name).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let template: Template = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&template.name)));
    }
    let mut sheet = Sheet::default();
    sheet.row("name", &template.name).row("id", template.id.to_string());
    if !template.description.is_empty() {
        sheet.rows("description", template.description.lines().map(str::to_owned));
    }
    let disks = template.disks.iter();
    sheet.rows(
        "disks",
        disks.map(|d| format!("{}/{} ({})", d.pool, d.volume, bytes(d.capacity_bytes))),
    );
    let least = |number: Option<u64>, unit: &str| number.map(|number| format!("{number} {unit}"));
    for (label, text) in [
        ("least memory", least(template.min_memory, "MiB")),
        ("least vcpus", least(template.min_vcpus.map(u64::from), "")),
        ("least disk", least(template.min_disk, "GiB")),
        ("made of", template.source_vm.clone()),
    ] {
        if let Some(text) = text {
            sheet.row(label, text.trim());
        }
    }
    sheet.rows("linked clones", template.linked_clones.iter().cloned());
    let problems = template.problems.iter();
    sheet.rows("problems", problems.map(|p| format!("{}: {}", p.field, p.problem)));
    sheet.row("settings", template.settings.to_string());
    sheet.row("made", moment(cx.now, template.created_at));
    let text = sheet.render();
    cx.print(&text)
}

async fn create(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let mut body = overlay(json!({"name": args.name}), args.least.body());
    let request = match &args.from_vm {
        Some(vm) => {
            let more = json!({"convert": args.convert.then_some(true), "pool": args.pool});
            body = overlay(body, without_nulls(more));
            Request::new(Method::POST, vm_path(vm, "/template"))
        }
        None => {
            body["settings"] = read_body(cx, args.file.as_deref())?;
            Request::new(Method::POST, TEMPLATES)
        }
    };
    let meant = match &args.from_vm {
        Some(vm) => Meant::Vm(vm),
        None => Meant::Template(&args.name),
    };
    change(cx, request.json(&body), &args.change, meant, &args.name, "created").await
}

async fn update(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let mut body = overlay(args.least.body(), without_nulls(json!({"name": args.name})));
    if args.file.is_some() {
        body["settings"] = read_body(cx, args.file.as_deref())?;
    }
    let request = Request::new(Method::PUT, path(&args.template)).json(&body);
    let meant = Meant::Template(&args.template);
    change(cx, request, &args.change, meant, &args.template, "changed").await
}

async fn delete(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let images = if args.delete_volumes { "with its images" } else { "and leave its images" };
    let victims = args.templates.iter().map(|name| Victim {
        meant: Meant::Template(name),
        request: Request::new(Method::DELETE, path(name))
            .flag("delete_volumes", args.delete_volumes),
        question: format!("delete {} {images}?", quoted(name)),
    });
    delete_each(cx, "deleting a template", victims, &args.deletion).await
}
