// Package config reads, checks and holds the appliance's configuration: one
// strict YAML file with interfaces, policies, services, drain and admin.
//
// Load gives a complete Config with every default filled in, or every error
// of the file at once, each with its line and column. After Load a Config is
// read-only. The package imports none of ours and starts no goroutine.
package config
