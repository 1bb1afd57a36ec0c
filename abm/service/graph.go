package service

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	abmv1alpha1 "github.com/bulkhead-dev/bulkhead/api/abm/v1alpha1"
)

// order finds for each step what it needs, and puts the steps into an order in which
// they can be done.
func order(spec *abmv1alpha1.ServiceSpec, path *field.Path) ([]*Step, field.ErrorList) {
	var problems field.ErrorList
	needs := map[string][]string{}
	for i := range spec.Steps {
		each, at := &spec.Steps[i], path.Index(i)
		if _, twice := needs[each.Name]; twice {
			problems = append(problems, field.Duplicate(at.Child("name"), each.Name))
			continue
		}
		var own []string
		switch {
		case spec.Order == abmv1alpha1.OrderGraph:
			own = slices.Clone(each.Needs)
		case len(each.Needs) > 0:
			problems = append(problems, field.Forbidden(at.Child("needs"), "steps need the one before them, unless spec.order is Graph"))
		case i > 0:
			own = []string{spec.Steps[i-1].Name}
		}
		for j, name := range own {
			if indexOf(spec.Steps, name) < 0 {
				problems = append(problems, field.Invalid(at.Child("needs").Index(j), name, "there is no such step"))
			}
		}
		if each.Target != nil {
			problems = append(problems, checkTarget(spec, each, at.Child("target", "virtualCluster"))...)
			if !slices.Contains(own, each.Target.VirtualCluster) {
				own = append(own, each.Target.VirtualCluster)
			}
		}
		needs[each.Name] = own
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return sorted(spec.Steps, needs, path)
}

// checkTarget sees that the step which a target names makes one virtual cluster.
func checkTarget(spec *abmv1alpha1.ServiceSpec, each *abmv1alpha1.Step, path *field.Path) field.ErrorList {
	i := indexOf(spec.Steps, each.Target.VirtualCluster)
	if i < 0 {
		return field.ErrorList{field.Invalid(path, each.Target.VirtualCluster, "there is no such step")}
	}
	made := 0
	if maker := spec.Steps[i]; maker.Target == nil && maker.Manifests != nil {
		for _, manifest := range maker.Manifests.Objects {
			if isVirtualCluster(manifest.Template.Raw) {
				made++
			}
		}
	}
	if made != 1 {
		return field.ErrorList{field.Invalid(path, each.Target.VirtualCluster, fmt.Sprintf("the step makes %d virtual clusters in the super cluster, and must make one", made))}
	}
	return nil
}

// sorted sorts steps topologically, in the order they are written in where that is
// free.
func sorted(steps []abmv1alpha1.Step, needs map[string][]string, path *field.Path) ([]*Step, field.ErrorList) {
	done := map[string]*Step{}
	var result []*Step
	for len(result) < len(steps) {
		progress := false
		for i := range steps {
			each := &steps[i]
			if done[each.Name] != nil {
				continue
			}
			depth, free := int32(0), true
			for _, need := range needs[each.Name] {
				if done[need] == nil {
					free = false
					break
				}
				depth = max(depth, done[need].Order+1)
			}
			if free {
				done[each.Name] = &Step{Spec: each, Needs: needs[each.Name], Order: depth}
				result = append(result, done[each.Name])
				progress = true
			}
		}
		if !progress {
			return nil, cycle(steps, needs, done, path)
		}
	}
	return result, nil
}

// cycle tells one cycle among the steps that could not be sorted.
func cycle(steps []abmv1alpha1.Step, needs map[string][]string, done map[string]*Step, path *field.Path) field.ErrorList {
	start := slices.IndexFunc(steps, func(each abmv1alpha1.Step) bool { return done[each.Name] == nil })
	var way []string
	for name := steps[start].Name; ; {
		if at := slices.Index(way, name); at >= 0 {
			way = append(way[at:], name)
			break
		}
		way = append(way, name)
		name = needs[name][slices.IndexFunc(needs[name], func(need string) bool { return done[need] == nil })]
	}
	return field.ErrorList{field.Invalid(path.Index(indexOf(steps, way[0])).Child("needs"), strings.Join(way, " needs "), "the steps need each other in a circle")}
}

// before are the names of all steps that are done before one.
func before(steps []*Step, of *Step) map[string]bool {
	names := map[string]bool{}
	wanted := slices.Clone(of.Needs)
	for len(wanted) > 0 {
		name := wanted[0]
		wanted = wanted[1:]
		if names[name] {
			continue
		}
		names[name] = true
		for _, each := range steps {
			if each.Spec.Name == name {
				wanted = append(wanted, each.Needs...)
			}
		}
	}
	return names
}

func indexOf(steps []abmv1alpha1.Step, name string) int {
	return slices.IndexFunc(steps, func(each abmv1alpha1.Step) bool { return each.Name == name })
}
