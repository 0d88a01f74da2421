//! The types of files in the installer's list: which words their lines have, and where they go.
//!
//! Names and properties: `manifest.c` of NVIDIA/nvidia-installer; places: `set_destinations` in
//! its `files.c`. Types that were dropped again (NVIFR_LIB, ALLOCATOR_JSON …) are kept for old
//! drivers.

use crate::runfile::options::{Choice, Options};

/// A word that a line has after its type, or another property of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// `NATIVE` or `COMPAT32`.
    Architecture,
    /// A directory.
    Path,
    /// `INHERIT_PATH_DEPTH:<n>`.
    InheritedPath,
    /// It is a link and has a target.
    Link,
    /// It is needed while installing only.
    Temporary,
}

/// The optional part that a type belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    OpenGl,
    NvidiaModprobe,
    Systemd,
    Wine,
}

impl Part {
    pub(super) fn choice(self, options: &Options) -> Choice {
        match self {
            Self::OpenGl => options.opengl,
            Self::NvidiaModprobe => options.nvidia_modprobe,
            Self::Systemd => options.systemd,
            Self::Wine => options.wine,
        }
    }
}

/// Where files of a type go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The libraries' directory, then the entry's path.
    Libraries,
    /// A fixed directory below the libraries' one.
    LibrariesBelow(&'static str),
    /// A fixed directory, then the entry's path.
    Fixed(&'static str),
    /// A fixed directory, whatever the entry's path.
    Flat(&'static str),
    /// A fixed directory; for 32-bit files its sub-directory `32`.
    FlatBoth(&'static str),
    /// The X server's modules, then the entry's path.
    XModules,
    /// The entry's path itself.
    Explicit,
    /// `/lib/firmware/nvidia/<version>`, then the entry's path.
    Firmware,
    /// Not installed, or found only when the installer runs.
    Nowhere,
}

/// One type.
#[derive(Debug)]
pub(super) struct Kind {
    name: &'static str,
    extras: &'static [Extra],
    pub(super) place: Place,
    pub(super) part: Option<Part>,
    /// Whether every file of the type must be there afterwards.
    pub(super) required: bool,
}

impl Kind {
    pub(super) fn has(&self, extra: Extra) -> bool {
        self.extras.contains(&extra)
    }
}

/// The type of that name; `None` for one that is not known here.
pub(super) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

const NONE: &[Extra] = &[];
const PATH: &[Extra] = &[Extra::Path];
const ARCH: &[Extra] = &[Extra::Architecture];
const ARCH_PATH: &[Extra] = &[Extra::Architecture, Extra::Path];
const LINK: &[Extra] = &[Extra::Link];
const PATH_LINK: &[Extra] = &[Extra::Path, Extra::Link];
const ARCH_LINK: &[Extra] = &[Extra::Architecture, Extra::Link];
const ARCH_PATH_LINK: &[Extra] = &[Extra::Architecture, Extra::Path, Extra::Link];
const INHERITED: &[Extra] = &[Extra::InheritedPath];
const TEMPORARY: &[Extra] = &[Extra::Temporary];
const PATH_TEMPORARY: &[Extra] = &[Extra::Path, Extra::Temporary];
const INHERITED_TEMPORARY: &[Extra] = &[Extra::InheritedPath, Extra::Temporary];

/// Must be there after a good installation.
const fn sure(name: &'static str, extras: &'static [Extra], place: Place) -> Kind {
    Kind { name, extras, place, part: None, required: true }
}

/// May be there.
const fn maybe(name: &'static str, extras: &'static [Extra], place: Place) -> Kind {
    Kind { name, extras, place, part: None, required: false }
}

impl Kind {
    /// Only with that part.
    const fn of(mut self, part: Part) -> Self {
        self.part = Some(part);
        self
    }
}

use Part::{NvidiaModprobe, OpenGl, Systemd, Wine};
use Place::{
    Explicit, Firmware, Fixed, Flat, FlatBoth, Libraries, LibrariesBelow, Nowhere, XModules,
};

const KINDS: &[Kind] = &[
    // The kernel's side: the host's business.
    maybe("KERNEL_MODULE_SRC", INHERITED, Nowhere),
    maybe("KERNEL_MODULE", NONE, Nowhere),
    maybe("DKMS_CONF", INHERITED_TEMPORARY, Nowhere),
    maybe("MODULE_SIGNING_KEY", TEMPORARY, Nowhere),
    maybe("FIRMWARE", INHERITED, Firmware),
    // CUDA, OpenCL, video, management.
    sure("CUDA_ICD", NONE, Fixed("/etc/OpenCL/vendors")),
    sure("CUDA_LIB", ARCH_PATH, Libraries),
    sure("CUDA_SYMLINK", ARCH_PATH_LINK, Libraries),
    sure("OPENCL_LIB", ARCH_PATH, Libraries),
    sure("OPENCL_LIB_SYMLINK", ARCH_PATH_LINK, Libraries),
    maybe("OPENCL_WRAPPER_LIB", ARCH_PATH, Libraries),
    maybe("OPENCL_WRAPPER_SYMLINK", ARCH_PATH_LINK, Libraries),
    sure("NVCUVID_LIB", ARCH, Libraries),
    sure("NVCUVID_LIB_SYMLINK", ARCH_LINK, Libraries),
    sure("ENCODEAPI_LIB", ARCH, Libraries),
    sure("ENCODEAPI_LIB_SYMLINK", ARCH_LINK, Libraries),
    sure("UTILITY_LIB", ARCH, Libraries),
    sure("UTILITY_LIB_SYMLINK", ARCH_LINK, Libraries),
    sure("UTILITY_BINARY", NONE, Fixed("/usr/bin")),
    sure("UTILITY_BIN_SYMLINK", LINK, Fixed("/usr/bin")),
    sure("INSTALLER_BINARY", NONE, Fixed("/usr/bin")),
    sure("NVIDIA_MODPROBE", PATH, Explicit).of(NvidiaModprobe),
    maybe("NVIDIA_MODPROBE_MANPAGE", PATH, Fixed("/usr/share/man")).of(NvidiaModprobe),
    maybe("VDPAU_LIB", ARCH_PATH, Libraries),
    maybe("VDPAU_SYMLINK", ARCH_PATH_LINK, Libraries),
    maybe("NVIFR_LIB", ARCH, Libraries),
    maybe("NVIFR_LIB_SYMLINK", ARCH_LINK, Libraries),
    maybe("VGX_LIB", NONE, Libraries),
    maybe("VGX_LIB_SYMLINK", LINK, Libraries),
    maybe("GRID_LIB", PATH, Libraries),
    maybe("GRID_LIB_SYMLINK", PATH_LINK, Libraries),
    maybe("FLEXERA_LIB", PATH, Libraries),
    maybe("FLEXERA_LIB_SYMLINK", PATH_LINK, Libraries),
    maybe("INTERNAL_UTILITY_BINARY", ARCH, FlatBoth("/usr/lib/nvidia")),
    maybe("INTERNAL_UTILITY_LIB", ARCH, FlatBoth("/usr/lib/nvidia")),
    maybe("INTERNAL_UTILITY_DATA", NONE, FlatBoth("/usr/lib/nvidia")),
    maybe("SANDBOXUTILS_FILELIST_JSON", PATH, Flat("/usr/share/nvidia/files.d")),
    maybe("WINE_LIB", ARCH, LibrariesBelow("nvidia/wine")).of(Wine),
    // OpenGL, EGL, GLX, Vulkan.
    sure("OPENGL_LIB", ARCH, Libraries).of(OpenGl),
    sure("OPENGL_SYMLINK", ARCH_LINK, Libraries).of(OpenGl),
    sure("TLS_LIB", ARCH_PATH, Libraries).of(OpenGl),
    sure("GLX_CLIENT_LIB", ARCH, Libraries).of(OpenGl),
    sure("GLX_CLIENT_SYMLINK", ARCH_LINK, Libraries).of(OpenGl),
    sure("EGL_CLIENT_LIB", ARCH, Libraries).of(OpenGl),
    sure("EGL_CLIENT_SYMLINK", ARCH_LINK, Libraries).of(OpenGl),
    maybe("GLVND_LIB", ARCH, Libraries).of(OpenGl),
    maybe("GLVND_SYMLINK", ARCH_LINK, Libraries).of(OpenGl),
    maybe("GLVND_EGL_ICD_JSON", NONE, Fixed("/usr/share/glvnd/egl_vendor.d")).of(OpenGl),
    maybe("EGL_EXTERNAL_PLATFORM_JSON", NONE, Fixed("/usr/share/egl/egl_external_platform.d"))
        .of(OpenGl),
    maybe("OPENGL_DATA", PATH, Explicit).of(OpenGl),
    maybe("GLX_MODULE_SHARED_LIB", PATH, XModules).of(OpenGl),
    maybe("GLX_MODULE_SYMLINK", PATH_LINK, XModules).of(OpenGl),
    maybe("GBM_BACKEND_LIB", ARCH, LibrariesBelow("gbm")),
    // Its target is made absolute when the installer runs.
    maybe("GBM_BACKEND_LIB_SYMLINK", ARCH_LINK, Nowhere),
    maybe("VULKAN_ICD_JSON", PATH, Fixed("/etc/vulkan")),
    maybe("VULKANSC_ICD_JSON", PATH, Fixed("/etc/vulkansc")),
    // The desktop, documents, systemd.
    maybe("XMODULE_SHARED_LIB", PATH, XModules),
    maybe("XORG_OUTPUTCLASS_CONFIG", NONE, Fixed("/usr/share/X11/xorg.conf.d")),
    maybe("APPLICATION_PROFILE", PATH, Nowhere),
    maybe("DOT_DESKTOP", PATH_TEMPORARY, Nowhere),
    maybe("ICON", PATH, Nowhere),
    maybe("DOCUMENTATION", PATH, Fixed("/usr/share/doc")),
    maybe("MANPAGE", PATH, Fixed("/usr/share/man")),
    maybe("EXPLICIT_PATH", PATH, Explicit),
    maybe("SYSTEMD_UNIT", NONE, Fixed("/usr/lib/systemd/system")).of(Systemd),
    maybe("SYSTEMD_UNIT_SYMLINK", PATH_LINK, Nowhere).of(Systemd),
    maybe("SYSTEMD_SLEEP_SCRIPT", NONE, Fixed("/usr/lib/systemd/system-sleep")).of(Systemd),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_row() {
        for kind in KINDS {
            assert_eq!(KINDS.iter().filter(|other| other.name == kind.name).count(), 1);
        }
    }
}
