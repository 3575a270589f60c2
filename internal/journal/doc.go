// Package journal keeps on disk which connections are alive, so that after a
// crash their peers can be told that they are not; and after a stop those in
// TIME-WAIT, so that the next start goes on with them.
//
// There is one file for each network card, NAME.connections in the state
// directory, whose owner is whoever holds the card:
//
//	 0  8  "LASTACKJ"; "LASTACKT" in NAME.time-wait
//	 8  2  version
//	10  2  bytes of a record
//	12  4  records
//	16  8  written at, nanoseconds since 1970
//	24  8  written at, nanoseconds since the boot
//	32 16  the boot
//	48 16  name of the card, the rest zeros
//	64  4  CRC-32C of the records
//	68  4  CRC-32C of all above
//	72     the records, one for each connection
//
// Numbers are big-endian. A Writer makes the file beside the old one and
// renames it: a crash leaves the one or the other whole. A clean stop removes
// it, so that one which is found tells of a crash.
//
// Nothing here owns a goroutine.
package journal
