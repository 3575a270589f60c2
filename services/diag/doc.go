// Package diag has the small services that show whether a path works: echo
// (RFC 862), discard (RFC 863), daytime (RFC 867) and chargen (RFC 864), over
// TCP.
//
// Diag is the service; what it makes of a connection is a talk. The package
// runs no goroutine: talks are tasks of the loops. It stops by the methods of
// services.Service.
package diag
