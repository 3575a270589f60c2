package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/lock"
)

// The part of SPDX 2.3 that says what an image holds
// (https://spdx.github.io/spdx-spec/v2.3/).
type spdx struct {
	Version       string         `json:"spdxVersion"`
	DataLicense   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      spdxCreation   `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Files         []spdxFile     `json:"files"`
	Relationships []spdxRelation `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name       string      `json:"name"`
	ID         string      `json:"SPDXID"`
	Version    string      `json:"versionInfo"`
	Supplier   string      `json:"supplier,omitempty"`
	Location   string      `json:"downloadLocation"`
	Analyzed   bool        `json:"filesAnalyzed"`
	Checksums  []spdxSum   `json:"checksums,omitempty"`
	References []spdxRef   `json:"externalRefs,omitempty"`
	License    string      `json:"licenseConcluded"`
	Declared   string      `json:"licenseDeclared"`
	Copyright  string      `json:"copyrightText"`
	Comment    string      `json:"comment,omitempty"`
	Purpose    spdxPurpose `json:"primaryPackagePurpose,omitempty"`
}

type spdxPurpose string

type spdxFile struct {
	Name      string    `json:"fileName"`
	ID        string    `json:"SPDXID"`
	Checksums []spdxSum `json:"checksums"`
	License   string    `json:"licenseConcluded"`
	Copyright string    `json:"copyrightText"`
}

type spdxSum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	spdxDocument = "SPDXRef-DOCUMENT"
	spdxImage    = "SPDXRef-Image"
	noAssertion  = "NOASSERTION"
)

// sbom lists what an image is made of: Debian's packages by their sums, the
// appliance's modules as the binary names them, and the files on the EFI
// system partition. created is part of it, so it is given.
func (p *parts) sbom(files []disk.File, imageSum string, created time.Time) ([]byte, error) {
	r := p.slot.Release
	name := fmt.Sprintf("lastack-%s-%s", r.Version, r.Arch)
	d := &spdx{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: spdxDocument, Name: name,
		Namespace: "https://spdx.org/spdxdocs/" + name + "-" + imageSum,
		Creation:  spdxCreation{created.UTC().Format(time.RFC3339), []string{"Tool: appliance-image-build-" + r.Version}},
	}
	d.Packages = append(d.Packages, newPackage("lastack", spdxImage, r.Version))
	d.Packages[0].Checksums, d.Packages[0].Purpose = []spdxSum{{"SHA256", imageSum}}, "OPERATING-SYSTEM"
	d.relate(spdxDocument, "DESCRIBES", spdxImage)
	for _, l := range p.lock {
		d.addDebian(l)
	}
	d.addGo(p)
	for _, f := range files {
		d.addFile(f.Path, f.Data)
	}
	d.addFile(image.InitPath, p.system.Binary)
	d.addFile(image.FsckPath, p.system.Fsck)
	for _, s := range p.system.Modules {
		for _, m := range s.Modules {
			d.addFile("/lib/modules/"+r.Kernel+"/"+m.File, m.Data)
		}
	}
	out, err := json.MarshalIndent(d, "", " ")
	return append(out, '\n'), err
}

func newPackage(name, id, version string) spdxPackage {
	return spdxPackage{Name: name, ID: id, Version: version, Location: noAssertion, License: noAssertion, Declared: noAssertion, Copyright: noAssertion}
}

func (d *spdx) relate(from, kind, to string) {
	d.Relationships = append(d.Relationships, spdxRelation{from, kind, to})
}

func (d *spdx) addDebian(l lock.Package) {
	p := newPackage(l.Name, "SPDXRef-Debian-"+spdxID(l.Name), l.Version)
	p.Supplier, p.Location = "Organization: Debian", "http://deb.debian.org/debian/"+l.Path
	if strings.HasPrefix(l.Path, "pool/updates/") {
		p.Location = "http://deb.debian.org/debian-security/" + l.Path
	}
	p.Checksums = []spdxSum{{"SHA256", l.SHA256}}
	p.Comment = "built from the source package " + l.Source
	p.References = purl(fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", l.Name, strings.ReplaceAll(l.Version, "~", "%7E"), l.Arch))
	d.Packages = append(d.Packages, p)
	d.relate(spdxImage, "CONTAINS", p.ID)
}

// addGo adds what the appliance's binary says it was linked from.
func (d *spdx) addGo(parts *parts) {
	info := parts.goBuild
	app := newPackage("appliance", "SPDXRef-Appliance", parts.slot.Release.Version)
	app.References = purl("pkg:golang/" + info.Path + "@" + parts.slot.Release.Version)
	std := newPackage("go", "SPDXRef-Go-std", info.GoVersion)
	std.References = purl("pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"))
	d.Packages = append(d.Packages, app, std)
	d.relate(spdxImage, "CONTAINS", app.ID)
	d.relate(app.ID, "CONTAINS", std.ID)
	for _, m := range info.Deps {
		p := newPackage(m.Path, "SPDXRef-Go-"+spdxID(m.Path), m.Version)
		p.Location = "https://proxy.golang.org/" + strings.ToLower(m.Path) + "/@v/" + m.Version + ".zip"
		p.References = purl("pkg:golang/" + m.Path + "@" + m.Version)
		p.Comment = "go.sum: " + m.Sum
		d.Packages = append(d.Packages, p)
		d.relate(app.ID, "CONTAINS", p.ID)
	}
}

func (d *spdx) addFile(name string, data []byte) {
	sum := sha256.Sum256(data)
	f := spdxFile{Name: "." + name, ID: "SPDXRef-File-" + spdxID(name[1:]), License: noAssertion, Copyright: noAssertion,
		Checksums: []spdxSum{{"SHA1", sha1Sum(data)}, {"SHA256", hex.EncodeToString(sum[:])}}}
	d.Files = append(d.Files, f)
	d.relate(spdxImage, "CONTAINS", f.ID)
}

func purl(locator string) []spdxRef { return []spdxRef{{"PACKAGE-MANAGER", "purl", locator}} }

// spdxID has letters, digits, dots and dashes only.
func spdxID(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' {
			return c
		}
		return '-'
	}, name)
}
