//! Virtual networks: listed and used. Their management is a later chapter.

use std::sync::Arc;

use super::inventory::Inventory;
use super::page::{self, Page, PageQuery};
use crate::error::{Error, Result};
use crate::model::Network;

/// Answers for networks.
#[derive(Clone)]
pub struct NetworkService {
    inventory: Inventory,
}

impl NetworkService {
    pub fn new(inventory: Inventory) -> Self {
        NetworkService { inventory }
    }

    /// Networks by name.
    pub fn list(&self, query: &PageQuery) -> Result<Page<Network>> {
        let picture = self.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let items: Vec<Arc<Network>> = picture
            .networks
            .iter()
            .filter(|network| {
                query.name.as_ref().is_none_or(|name| page::matches_pattern(name, &network.name))
            })
            .cloned()
            .collect();
        page::page_of(items, query, sort, |network| {
            (network.name.clone(), network.uuid.to_string())
        })
    }

    /// One network.
    pub fn get(&self, name: &str) -> Result<Arc<Network>> {
        self.inventory.picture().network(name)
    }
}
