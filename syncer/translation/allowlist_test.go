package translation

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/randfill"
)

type inner struct {
	A string            `json:"a,omitempty"`
	B *bool             `json:"b,omitempty"`
	M map[string]string `json:"m,omitempty"`
}

type embedded struct {
	Inline string `json:"inline,omitempty"`
}

type outer struct {
	embedded `json:",inline"`
	Plain    string  `json:"plain,omitempty"`
	Ptr      *inner  `json:"ptr,omitempty"`
	List     []inner `json:"list,omitempty"`
	Struct   inner   `json:"struct,omitempty"`
	Bad      bool    `json:"bad,omitempty"`
	Odd      int     `json:"odd,omitempty"`
	Seen     int     `json:"seen,omitempty"`
	New      string  `json:"new,omitempty"`
}

func newOuterList() *AllowList[outer] {
	return NewAllowList[outer]("spec.", Join(Fields{
		"plain": Pass, "bad": RefuseField("bad rule"), "odd": IgnoreField("odd rule"), "seen": Handled,
	}, Fields{"a": Pass, "m": Pass}.Under("list[]."), Fields{"a": Pass}.Under("ptr."), Fields{"b": Pass}.Under("struct.")))
}

// An API that is newer than this code has fields that no rule names; they must be
// reported, at whatever depth, and not go down.
func TestAllowList(t *testing.T) {
	yes := true
	in := outer{
		embedded: embedded{Inline: "x"}, Plain: "p", Ptr: &inner{A: "a", B: &yes}, List: []inner{{A: "1"}, {M: map[string]string{"k": "v"}, B: &yes}},
		Struct: inner{B: &yes}, Bad: true, Odd: 1, Seen: 2, New: "n",
	}
	got, findings := newOuterList().Copy(in)
	want := outer{Plain: "p", Ptr: &inner{A: "a"}, List: []inner{{A: "1"}, {M: map[string]string{"k": "v"}}}, Struct: inner{B: &yes}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outer{})); diff != "" {
		t.Error(diff)
	}
	wantFindings := []Finding{
		Ignore("spec.ptr.b", unknownField), Ignore("spec.list[1].b", unknownField), Refuse("spec.bad", "bad rule"),
		Ignore("spec.odd", "odd rule"), Ignore("spec.new", unknownField),
	}
	if diff := cmp.Diff(wantFindings, findings[1:]); diff != "" || findings[0] != Ignore("spec.inline", unknownField) {
		t.Errorf("findings %v\n%s", findings, diff)
	}
	if !Refused(findings) || Summary(findings, true) != "spec.bad: bad rule" {
		t.Errorf("summary %q", Summary(findings, true))
	}
}

func TestUnlisted(t *testing.T) {
	want := []string{"inline", "list[].b", "new", "ptr.b", "ptr.m", "struct.a", "struct.m"}
	if diff := cmp.Diff(want, newOuterList().Unlisted()); diff != "" {
		t.Error(diff)
	}
}

func TestWrongTablesAreFaultsOfTheProgram(t *testing.T) {
	for name, fields := range map[string]Fields{
		"no such field":       {"none": Pass},
		"no such field below": {"ptr.none": Pass},
		"two depths":          {"ptr": Pass, "ptr.a": Pass},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			NewAllowList[outer]("", fields)
		}()
	}
}

func FuzzAllowList(f *testing.F) {
	list := newOuterList()
	f.Add([]byte("bytes"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in outer
		randfill.NewFromGoFuzz(data).NilChance(0.3).NumElements(0, 4).Fill(&in)
		out, findings := list.Copy(in)
		if out.Bad || out.Odd != 0 || out.Seen != 0 || out.New != "" || out.Inline != "" || (in.Bad != Refused(findings)) {
			t.Errorf("%+v, %v", out, findings)
		}
		if out.Plain != in.Plain || len(out.List) != len(in.List) {
			t.Errorf("%+v became %+v", in, out)
		}
		again, none := list.Copy(out)
		if len(none) > 0 {
			t.Errorf("what passes does not pass again: %v", none)
		}
		if diff := cmp.Diff(out, again, cmp.AllowUnexported(outer{})); diff != "" {
			t.Error(diff)
		}
	})
}
