package translation

import (
	"slices"
	"strings"
)

// Finding is something a tenant asked for that it does not get. It becomes an
// event on the tenant's object, so that it is seen by who wrote it.
type Finding struct {
	// Field is the path of what was asked for, such as spec.hostNetwork.
	Field string
	// Rule says why not, in words for the tenant.
	Rule string
	// Refused means that the whole object does not go down because of it.
	// Otherwise it goes down without what was asked for.
	Refused bool
}

func (f Finding) String() string { return f.Field + ": " + f.Rule }

// Refuse makes a finding that keeps the object in the tenant's cluster.
func Refuse(field, rule string) Finding { return Finding{Field: field, Rule: rule, Refused: true} }

// Ignore makes a finding that lets the object go down without the field.
func Ignore(field, rule string) Finding { return Finding{Field: field, Rule: rule} }

// Refused tells whether one of the findings keeps the object from going down.
func Refused(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Refused })
}

// Summary is one text of all refused, or all ignored, findings, and empty if there
// are none. The order is fixed, so that the same findings make the same event.
func Summary(findings []Finding, refused bool) string {
	var texts []string
	for _, finding := range findings {
		if finding.Refused == refused {
			texts = append(texts, finding.String())
		}
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), "; ")
}
