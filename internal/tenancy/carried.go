package tenancy

// Marks that the syncer writes for itself, beside those of Mark.
const (
	// AnnotationFor is on a super object that stands for no tenant object of its own
	// kind, and holds the resource it was made for, such as pods. The object's other
	// marks are those of that object.
	AnnotationFor = Domain + "/for"
	// AnnotationCarried is on a super object and lists the keys of labels and
	// annotations that came from the tenant. It tells those that the tenant has
	// removed from those that the super cluster's own controllers put there.
	AnnotationCarried = Domain + "/carried"
	// AnnotationLabels and AnnotationAnnotations are on a super pod that shows its
	// labels or annotations in a file. They hold the file's text: the tenant's
	// labels or annotations without ours.
	AnnotationLabels      = Domain + "/labels"
	AnnotationAnnotations = Domain + "/annotations"
	// AnnotationTokens is on the Secret with a pod's service account tokens and says
	// when which of them has to be renewed.
	AnnotationTokens = Domain + "/tokens"
	// AnnotationUnusedSince is on a virtual node whose last pod has gone, and holds
	// the time of that in RFC 3339.
	AnnotationUnusedSince = Domain + "/unused-since"
)

// OpaqueDriver stands in a tenant's cluster for the super cluster's provisioners
// and CSI drivers, whose names and parameters are none of the tenant's business.
const OpaqueDriver = Domain
