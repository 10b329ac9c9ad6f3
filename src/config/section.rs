//! The macro that declares keys: the only place that a key is written down.

/// Declares a section of the configuration, or a table of a list of tables.
///
/// Yields the struct, its `Default`, its reading and its masked writing, and `TABLE`, from which come the names in the
/// environment, what SIGHUP changes, the checks of single values, and `config-doc`. A key is
///
/// ```text
/// /// What it means, and when to change it: for rustdoc and for docs/configuration.md.
/// name: Type = default, option, option(value);
/// ```
///
/// where the type is a `Value` and the options are the methods of `Key`. In
/// `unwritten` are fields that no source sets.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $section:ident in $prefix:literal {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $default:expr $(, $option:ident $(($($value:expr),+))?)*;
            )*
        }
        $(unwritten {
            $(
                $(#[doc = $field_doc:literal])*
                $field:ident: $field_type:ty;
            )*
        })?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $section {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nDefault: `", stringify!($default), "`.")]
                #[serde(with = "crate::config::value")]
                pub $key: $type,
            )*
            $($(
                $(#[doc = $field_doc])*
                #[serde(skip)]
                pub $field: $field_type,
            )*)?
        }

        impl Default for $section {
            fn default() -> Self {
                Self {
                    $($key: $default,)*
                    $($($field: Default::default(),)*)?
                }
            }
        }

        impl $section {
            /// The keys, as they are declared.
            pub(in crate::config) const TABLE: &crate::config::key::Table = &crate::config::key::Table {
                about: concat!($($about, "\n"),*),
                keys: &[$(
                    crate::config::key::Key::new(
                        concat!($prefix, stringify!($key)),
                        concat!($($doc, "\n"),*),
                        <$type as crate::config::value::Value>::KIND,
                        <$type as crate::config::value::Value>::SECRET,
                    )
                    $(.$option($($($value),+)?))*
                ),*],
            };
        }

        impl crate::config::value::Value for $section {
            const KIND: crate::config::key::Kind = crate::config::key::Kind::Section(Self::TABLE);
            const SECRET: bool = Self::TABLE.has_secret();

            fn read<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                serde::Deserialize::deserialize(from)
            }

            fn read_list<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Self>, D::Error> {
                serde::Deserialize::deserialize(from)
            }

            fn show<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(self, to)
            }

            fn same(&self, other: &Self) -> bool {
                $(self.$key.same(&other.$key))&&*
            }

            fn reload(
                &mut self,
                new: &Self,
                _: &'static crate::config::key::Key,
                found: &mut crate::config::reload::Changes,
            ) {
                let [$($key),*] = Self::TABLE.keys else { return };
                $(self.$key.reload(&new.$key, $key, found);)*
            }

            fn check(
                &self,
                at: &str,
                _: &crate::config::key::Key,
                findings: &mut crate::config::validate::Findings,
            ) {
                let [$($key),*] = Self::TABLE.keys else { return };
                $(self.$key.check(&crate::config::validate::inside(at, stringify!($key)), $key, findings);)*
            }
        }
    };
}

pub(super) use section;
