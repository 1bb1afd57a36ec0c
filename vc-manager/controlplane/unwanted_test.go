package controlplane

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

func TestUnwanted(t *testing.T) {
	scheduler := []string{"*v1.PodDisruptionBudget kube-scheduler", "*v1.NetworkPolicy kube-scheduler", "*v1.Deployment kube-scheduler"}
	for name, tc := range map[string]struct {
		edit func(*Input)
		want []string
	}{
		"every option":             {func(*Input) {}, nil},
		"before it was up":         {func(in *Input) { in.Established = false }, nil},
		"scheduled by the super":   {func(in *Input) { in.Class.Scheduling = tenancyv1alpha1.ScheduledBySuper }, scheduler},
		"metrics-server left out":  {func(in *Input) { in.Class.MetricsServer.Disabled = true }, []string{"*v1.NetworkPolicy metrics-server", "*v1.Service metrics-server", "*v1.Deployment metrics-server"}},
		"the class says no longer": {func(in *Input) { in.Class.Scheduling = "" }, scheduler},
	} {
		in := sample()
		tc.edit(&in)
		got, want := map[string]bool{}, map[string]bool{}
		for _, object := range Unwanted(in) {
			got[kindAndName(object)] = true
		}
		for _, object := range tc.want {
			want[object] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
