// Package deb gets Debian packages by a lock file, from a cache directory or
// with apt-get, and reads what is in them. It asks for no rights: apt works in
// directories of its own, with sources of its own, for an architecture that
// need not be this machine's. Nothing is installed.
//
// It starts apt-get, apt-cache and dpkg-deb and waits for them; it has no goroutines.
package deb
