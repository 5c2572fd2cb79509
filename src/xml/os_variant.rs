//! libosinfo's database: one file says something about one or more operating systems or devices,
//! and what all files say of one system is put together by [`Collection`].

use std::collections::HashMap;

use crate::error::Result;
use crate::model::os_variant::{OsFirmware, OsResources, OsVariant, ReleaseStatus, ResourceNeed};

use super::tree::{Document, Element};

const MIB: u64 = 1 << 20;

/// A chain of ancestors that is longer than this goes round in circles.
const MAX_ANCESTORS: usize = 64;

/// How an installation medium is recognised by the descriptor of its file system. Each text is a
/// regular expression that has to be found somewhere in the descriptor's field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaPattern {
    /// The id of the operating system on it.
    pub os: String,
    pub architecture: String,
    /// Whether it runs without being installed.
    pub live: bool,
    pub volume_id: Option<String>,
    pub system_id: Option<String>,
    pub publisher_id: Option<String>,
    pub application_id: Option<String>,
    pub volume_size_bytes: Option<u64>,
}

/// What one system's files say, before it inherits from its ancestors.
#[derive(Default)]
struct Entry {
    variant: OsVariant,
    /// The architectures whose needs are the ancestor's.
    inherits: Vec<String>,
    clones: Option<String>,
    /// Ids, and whether there is a driver.
    devices: Vec<(String, bool)>,
}

/// What has been read of the database so far.
#[derive(Default)]
pub struct Collection {
    entries: HashMap<String, Entry>,
    devices: HashMap<String, String>,
    media: Vec<MediaPattern>,
}

impl Collection {
    /// Reads one more file.
    ///
    /// # Errors
    /// [`crate::error::Kind::InvalidDefinition`] if it is no file of the database.
    pub fn read(&mut self, xml: &str) -> Result<()> {
        let document = Document::parse(xml)?;
        let root = document.expect("libosinfo")?;
        for element in root.elements() {
            let Some(id) = element.attr("id").map(|id| id.into_owned()) else { continue };
            match element.name() {
                "os" => self.os(id, element),
                "device" => {
                    if let Some(name) = plain(element, "name") {
                        self.devices.insert(id, name);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything, sorted by short id, with what is inherited; and the patterns of media.
    pub fn finish(self) -> (Vec<OsVariant>, Vec<MediaPattern>) {
        let mut variants: Vec<OsVariant> = self
            .entries
            .values()
            // What has no name is only spoken of by others.
            .filter(|entry| !entry.variant.name.is_empty() && !entry.variant.short_id.is_empty())
            .map(|entry| self.complete(entry))
            .collect();
        variants.sort_by(|one, other| (&one.short_id, &one.id).cmp(&(&other.short_id, &other.id)));
        (variants, self.media)
    }

    fn os(&mut self, id: String, element: &Element<'_>) {
        for media in element.children("media") {
            self.media.extend(media.children("iso").map(|iso| pattern(&id, media, iso)));
        }
        let entry = self.entries.entry(id.clone()).or_default();
        let variant = &mut entry.variant;
        variant.id = id;
        fill(&mut variant.short_id, plain(element, "short-id"));
        fill(&mut variant.name, plain(element, "name"));
        let texts = [
            (&mut variant.version, "version"),
            (&mut variant.vendor, "vendor"),
            (&mut variant.family, "family"),
            (&mut variant.distro, "distro"),
            (&mut variant.codename, "codename"),
            (&mut variant.release_date, "release-date"),
            (&mut variant.eol_date, "eol-date"),
        ];
        for (field, name) in texts {
            if field.is_none() {
                *field = plain(element, name);
            }
        }
        let id_of = |name: &str| element.find_attr(name, "id");
        variant.derives_from = variant.derives_from.take().or_else(|| id_of("derives-from"));
        entry.clones = entry.clones.take().or_else(|| id_of("clones"));
        if let Some(word) = plain(element, "release-status") {
            variant.release_status = match word.as_str() {
                "prerelease" => ReleaseStatus::Prerelease,
                "snapshot" => ReleaseStatus::Snapshot,
                "rolling" => ReleaseStatus::Rolling,
                _ => ReleaseStatus::Released,
            };
        }
        for resources in element.children("resources") {
            if resources.attr("inherit").as_deref() == Some("true") {
                entry.inherits.push(architecture(resources));
            } else {
                variant.resources.push(needs(resources));
            }
        }
        variant.firmware.extend(element.children("firmware").map(|firmware| OsFirmware {
            architecture: architecture(firmware),
            r#type: firmware.attr("type").map(Into::into).unwrap_or_default(),
            supported: firmware.attr("supported").as_deref() != Some("false"),
        }));
        let named = element.children("media").map(architecture);
        for name in named.chain(element.children("resources").map(architecture)) {
            if name != "all" && !variant.architectures.contains(&name) {
                variant.architectures.push(name);
            }
        }
        for device in element.children("devices").flat_map(|all| all.children("device")) {
            if let Some(id) = device.attr("id") {
                let supported = device.attr("supported").as_deref() != Some("false");
                entry.devices.push((id.into_owned(), supported));
            }
        }
    }

    /// The entry itself and its ancestors, the nearest first.
    fn line<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        let parent = |entry: &&Entry| {
            let id = entry.clones.as_ref().or(entry.variant.derives_from.as_ref())?;
            self.entries.get(id)
        };
        std::iter::successors(Some(entry), parent).take(MAX_ANCESTORS)
    }

    fn complete(&self, entry: &Entry) -> OsVariant {
        let mut variant = entry.variant.clone();
        for architecture in &entry.inherits {
            let inherited = self.line(entry).skip(1).find_map(|ancestor| {
                let mut all = ancestor.variant.resources.iter();
                all.find(|found| found.architecture == *architecture)
            });
            variant.resources.extend(inherited.cloned());
        }
        let mut firmware: Vec<OsFirmware> = Vec::new();
        let mut devices: Vec<(&str, bool)> = Vec::new();
        for one in self.line(entry) {
            for found in &one.variant.firmware {
                let same = |known: &OsFirmware| {
                    known.architecture == found.architecture && known.r#type == found.r#type
                };
                if !firmware.iter().any(same) {
                    firmware.push(found.clone());
                }
            }
            for (id, supported) in &one.devices {
                if !devices.iter().any(|(known, _)| known == id) {
                    devices.push((id, *supported));
                }
            }
        }
        variant.firmware = firmware;
        variant.devices = devices
            .into_iter()
            .filter(|(_, supported)| *supported)
            .map(|(id, _)| self.devices.get(id).cloned().unwrap_or_else(|| id.to_owned()))
            .collect();
        variant.devices.sort();
        variant.devices.dedup();
        variant.architectures.sort();
        variant.resources.shrink_to_fit();
        variant
    }
}

/// Takes a first value; later files only add what is missing.
fn fill(field: &mut String, value: Option<String>) {
    if let (true, Some(value)) = (field.is_empty(), value) {
        *field = value;
    }
}

/// The text of the child of this name that is in no particular language.
fn plain(element: &Element<'_>, name: &str) -> Option<String> {
    let child = element.children(name).find(|child| child.attr("xml:lang").is_none())?;
    let text = child.text();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn architecture(element: &Element<'_>) -> String {
    element.attr("arch").map_or_else(|| "all".to_owned(), |name| name.into_owned())
}

fn needs(resources: &Element<'_>) -> OsResources {
    let need = |name: &str| {
        let element = resources.child(name)?;
        let number = |name: &str| element.find_text(name)?.parse::<u64>().ok();
        Some(ResourceNeed {
            vcpus: number("n-cpus").and_then(|count| u32::try_from(count).ok()),
            memory: number("ram").map(|bytes| bytes.div_ceil(MIB)),
            storage_bytes: number("storage"),
            cpu_hz: number("cpu"),
        })
    };
    OsResources {
        architecture: architecture(resources),
        minimum: need("minimum"),
        recommended: need("recommended"),
        maximum: need("maximum"),
        network_install: need("network-install"),
    }
}

fn pattern(os: &str, media: &Element<'_>, iso: &Element<'_>) -> MediaPattern {
    MediaPattern {
        os: os.to_owned(),
        architecture: architecture(media),
        live: media.attr("live").as_deref() == Some("true"),
        volume_id: plain(iso, "volume-id"),
        system_id: plain(iso, "system-id"),
        publisher_id: plain(iso, "publisher-id"),
        application_id: plain(iso, "application-id"),
        volume_size_bytes: plain(iso, "volume-size").and_then(|size| size.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "<?xml version='1.0'?><libosinfo version='0.0.1'>
  <!-- a licence -->
  <os id='http://x.org/x/1'>
    <short-id>x1</short-id><short-id>xone</short-id>
    <name xml:lang='ka'>&#xD64;</name><name>X 1</name><version>1</version>
    <family>linux</family><distro>x</distro><eol-date>2020-01-02</eol-date>
    <firmware arch='x86_64' type='efi'/>
    <resources arch='all'><minimum><n-cpus>1</n-cpus><ram>536870912</ram></minimum>
      <recommended><ram>1073741825</ram><storage>21474836480</storage></recommended></resources>
    <devices><device id='http://p.org/net'/><device id='http://p.org/gpu'/></devices>
    <media arch='x86_64' live='true'><iso><volume-id>X 1\\.\\d+</volume-id>
      <system-id>LINUX</system-id><volume-size>4096</volume-size></iso></media>
  </os></libosinfo>";
    const NEW: &str = "<libosinfo><os id='http://x.org/x/2'><short-id>x2</short-id>
    <name>X 2</name><derives-from id='http://x.org/x/1'/><release-status>rolling</release-status>
    <resources arch='all' inherit='true'/>
    <firmware arch='x86_64' type='bios' supported='false'/>
    <devices><device id='http://p.org/gpu' supported='false'/></devices></os></libosinfo>";
    const DEVICE: &str = "<libosinfo><device id='http://p.org/net'><name>virtio-net</name></device>
    <device id='http://p.org/gpu'><name>virtio-gpu</name></device></libosinfo>";

    fn collected(files: &[&str]) -> (Vec<OsVariant>, Vec<MediaPattern>) {
        let mut collection = Collection::default();
        for file in files {
            collection.read(file).unwrap();
        }
        collection.finish()
    }

    #[test]
    fn a_system_is_read_with_its_first_words_and_its_needs() {
        let (variants, media) = collected(&[OLD, DEVICE]);
        let x = &variants[0];
        assert_eq!((x.short_id.as_str(), x.name.as_str()), ("x1", "X 1"));
        assert_eq!(
            (x.family.as_deref(), x.eol_date.as_deref()),
            (Some("linux"), Some("2020-01-02"))
        );
        let (minimum, recommended) = (x.resources[0].minimum, x.resources[0].recommended);
        assert_eq!(minimum.and_then(|need| need.memory), Some(512));
        assert_eq!(recommended.and_then(|need| need.memory), Some(1025));
        assert_eq!(recommended.and_then(|need| need.storage_bytes), Some(21_474_836_480));
        assert_eq!(x.devices, ["virtio-gpu", "virtio-net"]);
        assert_eq!(x.architectures, ["x86_64"]);
        assert_eq!(media[0].volume_id.as_deref(), Some("X 1\\.\\d+"));
        assert_eq!((media[0].volume_size_bytes, media[0].live), (Some(4096), true));
    }

    #[test]
    fn a_descendant_inherits_what_it_does_not_say_otherwise() {
        let (variants, _) = collected(&[NEW, DEVICE, OLD]);
        let x = &variants[1];
        assert_eq!((x.short_id.as_str(), x.release_status), ("x2", ReleaseStatus::Rolling));
        assert_eq!(x.resources, variants[0].resources);
        assert_eq!(x.devices, ["virtio-net"]);
        let firmware: Vec<_> =
            x.firmware.iter().map(|f| (f.r#type.as_str(), f.supported)).collect();
        assert_eq!(firmware, [("bios", false), ("efi", true)]);
        assert_eq!(x.family, None, "what it is called is its own");
    }

    #[test]
    fn several_files_speak_of_one_system_and_a_circle_of_ancestors_ends() {
        let more = "<libosinfo><os id='http://x.org/x/1'><name>other</name>
            <derives-from id='http://x.org/x/2'/><codename>ixi</codename></os></libosinfo>";
        let (variants, _) = collected(&[OLD, more, NEW]);
        assert_eq!(variants.len(), 2);
        assert_eq!(variants[0].name, "X 1");
        assert_eq!(variants[0].codename.as_deref(), Some("ixi"));
    }

    #[test]
    fn what_is_no_file_of_the_database_is_refused() {
        for xml in ["<domain/>", "<libosinfo>", "", "<!DOCTYPE x><libosinfo/>"] {
            assert!(Collection::default().read(xml).is_err(), "{xml}");
        }
        // An entry without a name is only spoken of.
        assert!(collected(&["<libosinfo><os id='u'/></libosinfo>"]).0.is_empty());
    }
}
