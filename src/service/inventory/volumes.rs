//! Volumes in the picture, and what of it follows from each other: chains, and who uses what.
//!
//! A volume's file is found by its place: the path that libvirt tells, tidied up, with what the
//! [`aliases`](super::aliases) know of links. So it does not matter how a definition or a backing
//! file spells a path, nor how many pools show the same folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::aliases::Aliases;
use super::picture::VmRecord;
use crate::error::{Error, Result};
use crate::model::{BackingFile, Pool, Volume, VolumeRef, VolumeUse};
use crate::service::page::stable_hash;
use crate::xml::domain::view::{DiskPlace, Place};

/// One volume. What nothing but a client reads stands in `json` alone.
#[derive(Debug, Default)]
pub struct VolumeRecord {
    pub pool: String,
    pub name: String,
    pub path: String,
    pub r#type: String,
    pub format: Option<String>,
    pub capacity_bytes: u64,
    pub allocation_bytes: u64,
    pub backing_chain: Box<[BackingFile]>,
    pub backing_of: Box<[VolumeRef]>,
    pub used_as: BTreeMap<String, VolumeUse>,
    /// The name of the template that it is a base of.
    pub template: Option<Box<str>>,
    /// The object as the API sends it.
    pub json: Bytes,
    /// Of `json`.
    pub hash: u64,
    /// Of what libvirt told: the same text need not be read again.
    pub(super) told: u64,
}

impl VolumeRecord {
    fn new(volume: Volume, told: u64) -> Result<Self> {
        let json = serde_json::to_vec(&volume).map_err(Error::internal)?.into_boxed_slice();
        let mut record = VolumeRecord {
            pool: volume.pool,
            name: volume.name,
            path: volume.path,
            r#type: volume.r#type,
            format: volume.format,
            capacity_bytes: volume.capacity_bytes,
            allocation_bytes: volume.allocation_bytes,
            backing_chain: volume.backing_chain.into_boxed_slice(),
            backing_of: volume.backing_of.into_boxed_slice(),
            used_as: volume.used_as,
            template: volume.template.map(String::into_boxed_str),
            hash: stable_hash(&json),
            json: Bytes::from(json),
            told,
        };
        // A record stays for long: none of it keeps room that it does not need.
        for text in [&mut record.pool, &mut record.name, &mut record.path, &mut record.r#type] {
            text.shrink_to_fit();
        }
        Ok(record)
    }

    /// Its entity tag, the same after a restart of the daemon.
    pub fn etag(&self) -> String {
        format!("\"{:016x}\"", self.hash)
    }

    /// Everything that is known of it.
    ///
    /// # Errors
    /// `Internal`: what was written can always be read, so a failure is a defect.
    pub fn whole(&self) -> Result<Volume> {
        serde_json::from_slice(&self.json).map_err(Error::internal)
    }

    /// Its pool and name.
    pub fn reference(&self) -> VolumeRef {
        VolumeRef::new(self.pool.as_str(), self.name.as_str())
    }

    /// The names of the VMs that use it.
    pub fn users(&self) -> Vec<String> {
        self.used_as.keys().cloned().collect()
    }
}

/// The bases of templates, with the names of these.
pub type Bases = BTreeMap<VolumeRef, String>;

/// A volume on its way into the picture.
pub(super) enum Item {
    /// As it is there already.
    Known(Arc<VolumeRecord>),
    /// As libvirt has just told it, and the hash of that.
    Told(Box<Volume>, u64),
}

impl Item {
    pub(super) fn name(&self) -> &str {
        match self {
            Item::Known(record) => &record.name,
            Item::Told(volume, _) => &volume.name,
        }
    }

    fn pool(&self) -> &str {
        match self {
            Item::Known(record) => &record.pool,
            Item::Told(volume, _) => &volume.pool,
        }
    }

    fn path(&self) -> &str {
        match self {
            Item::Known(record) => &record.path,
            Item::Told(volume, _) => &volume.path,
        }
    }

    fn is_block(&self) -> bool {
        match self {
            Item::Known(record) => record.r#type == "block",
            Item::Told(volume, _) => volume.r#type == "block",
        }
    }

    fn backing(&self) -> Option<&BackingFile> {
        match self {
            Item::Known(record) => record.backing_chain.first(),
            Item::Told(volume, _) => volume.backing_chain.first(),
        }
    }

    fn reference(&self) -> VolumeRef {
        VolumeRef::new(self.pool(), self.name())
    }

    /// The record with what follows from the others; the present one if nothing has changed.
    fn settle(self, found: Found) -> Result<Arc<VolumeRecord>> {
        let (volume, told) = match self {
            Item::Known(record) => {
                let same = record.used_as == found.used_as
                    && *record.backing_of == found.backing_of
                    && record.template == found.template
                    && *record.backing_chain == found.chain;
                if same {
                    return Ok(record);
                }
                (record.whole()?, record.told)
            }
            Item::Told(volume, told) => (*volume, told),
        };
        let volume = Volume {
            used_by: found.used_as.keys().cloned().collect(),
            used_as: found.used_as,
            backing_of: found.backing_of,
            template: found.template.map(String::from),
            backing_chain: found.chain,
            ..volume
        };
        VolumeRecord::new(volume, told).map(Arc::new)
    }
}

/// A pool on its way into the picture.
pub(super) struct PoolItem {
    pub(super) pool: Pool,
    pub(super) volumes: Vec<Item>,
}

/// What follows for one volume from everything else.
#[derive(Default)]
struct Found {
    used_as: BTreeMap<String, VolumeUse>,
    backing_of: Vec<VolumeRef>,
    template: Option<Box<str>>,
    chain: Vec<BackingFile>,
}

/// The volumes with what follows from each other and from the VMs.
pub(super) struct Settled {
    /// In the order of the pools and volumes that were given.
    pub(super) volumes: Vec<Vec<Arc<VolumeRecord>>>,
    /// Paths that VMs use and that no volume has in these words, with the volume that is meant.
    pub(super) other_words: Vec<(String, usize, usize)>,
    /// What the aliases should be asked of: folders, devices, and paths that are no volume's in these
    /// words. It does not shrink with what the aliases have answered, or that would be forgotten again.
    pub(super) unclear: BTreeSet<String>,
}

/// Settles everything.
pub(super) fn settle(
    pools: Vec<PoolItem>,
    vms: &[Arc<VmRecord>],
    aliases: &Aliases,
    templates: &Bases,
) -> Result<Settled> {
    let ids: Vec<(usize, usize)> = pools
        .iter()
        .enumerate()
        .flat_map(|(pool, item)| (0..item.volumes.len()).map(move |volume| (pool, volume)))
        .collect();
    let Relations { found, other_words, unclear } = relate(&pools, vms, aliases, templates);
    let mut found = found.into_iter();
    let volumes = pools
        .into_iter()
        .map(|pool| {
            let settled = pool.volumes.into_iter().zip(&mut found);
            settled.map(|(item, found)| item.settle(found)).collect::<Result<Vec<_>>>()
        })
        .collect::<Result<Vec<_>>>()?;
    let other_words =
        other_words.into_iter().map(|(path, id)| (path, ids[id].0, ids[id].1)).collect();
    Ok(Settled { volumes, other_words, unclear })
}

/// What follows for each volume, counted through all pools.
struct Relations {
    found: Vec<Found>,
    other_words: Vec<(String, usize)>,
    unclear: BTreeSet<String>,
}

/// Finds out who uses what.
fn relate(
    pools: &[PoolItem],
    vms: &[Arc<VmRecord>],
    aliases: &Aliases,
    templates: &Bases,
) -> Relations {
    let items: Vec<&Item> = pools.iter().flat_map(|pool| &pool.volumes).collect();
    let mut unclear: BTreeSet<String> = BTreeSet::new();
    for pool in pools {
        unclear.extend(pool.pool.target_path.clone().filter(|path| path.starts_with('/')));
    }
    unclear.extend(items.iter().filter(|item| item.is_block()).map(|item| item.path().to_owned()));
    // Several volumes have one place where two pools show one folder.
    let mut by_place: HashMap<Cow<'_, str>, Vec<usize>> = HashMap::with_capacity(items.len());
    let mut by_name: HashMap<(&str, &str), usize> = HashMap::with_capacity(items.len());
    for (id, item) in items.iter().enumerate() {
        if !item.path().is_empty() {
            by_place.entry(aliases.place(item.path())).or_default().push(id);
        }
        by_name.insert((item.pool(), item.name()), id);
    }
    let at =
        |path: &str| by_place.get(&*aliases.place(path)).map(Vec::as_slice).unwrap_or_default();
    let in_other_words = |found: &[usize], path: &str| {
        path.starts_with('/') && found.iter().all(|id| items[*id].path() != path)
    };
    let mut found: Vec<Found> = items.iter().map(|_| Found::default()).collect();
    let mut below: Vec<&[usize]> = vec![&[]; items.len()];
    for (id, item) in items.iter().enumerate() {
        let Some(backing) = item.backing() else { continue };
        below[id] = at(&backing.path);
        if in_other_words(below[id], &backing.path) {
            unclear.insert(backing.path.clone());
        }
        for base in below[id].iter().filter(|base| **base != id) {
            found[*base].backing_of.push(item.reference());
        }
        found[id].chain = chain(&items, item, at);
    }
    for (volume, template) in templates {
        let names = (volume.pool.as_str(), volume.volume.as_str());
        let Some(id) = by_name.get(&names) else { continue };
        for same in at(items[*id].path()).iter().chain([id]) {
            found[*same].template = Some(template.as_str().into());
        }
    }
    let mut other_words = Vec::new();
    let mut reached: Vec<(usize, VolumeUse)> = Vec::new();
    for record in vms {
        reached.clear();
        for DiskPlace { place, r#as } in &record.places {
            let r#as = *r#as;
            match place {
                Place::Volume(volume) => {
                    let names = (volume.pool.as_str(), volume.volume.as_str());
                    if let Some(id) = by_name.get(&names) {
                        // The same file may be a volume of another pool, too.
                        let same = at(items[*id].path()).iter();
                        reached.extend(same.chain([id]).map(|id| (*id, r#as)));
                    }
                }
                Place::Path(path) => {
                    let here = at(path);
                    reached.extend(here.iter().map(|id| (*id, r#as)));
                    if in_other_words(here, path) {
                        unclear.insert(path.to_string());
                        other_words.extend(here.first().map(|id| (path.to_string(), *id)));
                    }
                }
            }
        }
        // Down the chains; a circle ends where everything has been reached.
        let mut next = 0;
        while let Some((id, _)) = reached.get(next).copied() {
            next += 1;
            for base in below[id] {
                if !reached.contains(&(*base, VolumeUse::Backing)) {
                    reached.push((*base, VolumeUse::Backing));
                }
            }
        }
        for (id, r#as) in &reached {
            let known = found[*id].used_as.get_mut(&record.vm.name);
            match known {
                Some(known) => *known = (*known).min(*r#as),
                None => {
                    found[*id].used_as.insert(record.vm.name.clone(), *r#as);
                }
            }
        }
    }
    for found in &mut found {
        found.backing_of.sort_unstable();
        found.backing_of.dedup();
    }
    Relations { found, other_words, unclear }
}

/// The chain below a volume, as far as it leads through volumes.
fn chain<'a>(items: &[&Item], top: &Item, at: impl Fn(&str) -> &'a [usize]) -> Vec<BackingFile> {
    let mut chain: Vec<BackingFile> = Vec::new();
    let mut layer = top.backing();
    while let Some(backing) = layer {
        let base = at(&backing.path).first().map(|id| items[*id]);
        let file = BackingFile {
            pool: base.map(|base| base.pool().to_owned()),
            volume: base.map(|base| base.name().to_owned()),
            ..backing.clone()
        };
        if chain.contains(&file) {
            break;
        }
        chain.push(file);
        layer = base.and_then(Item::backing);
    }
    chain
}
