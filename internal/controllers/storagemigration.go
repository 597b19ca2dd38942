package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	svmv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apiextensions"
	"proa/internal/kinds/storagemigration"
)

// StorageVersionMigration writes every object of a resource anew, so that all
// are stored in the version that is the one for storage now (KEP-4192). After
// that the definition of a custom resource says that no object is stored in any
// other version. Of several migrations of one resource one runs at a time.
func StorageVersionMigration(kinds control.Kinds) *control.Controller[*svmv1.StorageVersionMigration] {
	m := &migrations{catalog{kinds: kinds}}
	return &control.Controller[*svmv1.StorageVersionMigration]{
		Name: "storage-version-migration",
		For:  storagemigration.StorageVersionMigration,
		Any:  true,
		Watches: []control.Watch{control.On(storagemigration.StorageVersionMigration, func(c *control.Cluster, changed *svmv1.StorageVersionMigration) (keys []control.Key) {
			for _, other := range control.All(c, storagemigration.StorageVersionMigration, "") {
				if other.Spec.Resource == changed.Spec.Resource && other.Name != changed.Name {
					keys = append(keys, control.KeyOf(other))
				}
			}
			return keys
		})},
		Reconcile: m.reconcile,
	}
}

type migrations struct{ kinds catalog }

func migrated(m *svmv1.StorageVersionMigration, t svmv1.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
}

func ended(m *svmv1.StorageVersionMigration) bool {
	return migrated(m, svmv1.MigrationSucceeded) || migrated(m, svmv1.MigrationFailed)
}

// turn says whether it is a migration's turn among those of its resource: the
// one that runs, or else the oldest.
func turn(m *svmv1.StorageVersionMigration, all []*svmv1.StorageVersionMigration) bool {
	for _, other := range all {
		if other.Name == m.Name || other.Spec.Resource != m.Spec.Resource || ended(other) {
			continue
		}
		switch a, b := migrated(m, svmv1.MigrationRunning), migrated(other, svmv1.MigrationRunning); {
		case a && !b:
			continue
		case b && !a:
			return false
		}
		if o := other.CreationTimestamp.Compare(m.CreationTimestamp.Time); o < 0 || o == 0 && other.Name < m.Name {
			return false
		}
	}
	return true
}

func (m *migrations) reconcile(ctx context.Context, c *control.Cluster, job *svmv1.StorageVersionMigration) (time.Duration, error) {
	if job.DeletionTimestamp != nil || ended(job) || !turn(job, control.All(c, storagemigration.StorageVersionMigration, "")) {
		return 0, nil
	}
	d, err := definitionOf(ctx, c, job)
	if err != nil {
		return 0, err
	}
	r := m.kinds.named(job.Spec.Resource.Group, job.Spec.Resource.Resource)
	switch {
	case r == nil && d != nil && d.DeletionTimestamp == nil && c.Now().Sub(job.CreationTimestamp.Time) < time.Minute:
		return time.Second, nil // it is not established yet
	case r == nil:
		return 0, finish(ctx, c, job, d, errors.New("resource does not exist in discovery"))
	}
	if job, d, err = start(ctx, c, job, d, r); err != nil {
		return 0, err
	}
	err = rewriteAll(ctx, c, r, job.Status.ResourceVersion)
	if err != nil && !final(err) {
		return 0, err
	}
	return 0, finish(ctx, c, job, d, err)
}

// definitionOf is the definition of what is migrated; nil if it is no custom resource.
func definitionOf(ctx context.Context, c *control.Cluster, job *svmv1.StorageVersionMigration) (*apiextensionsv1.CustomResourceDefinition, error) {
	d, err := apiextensions.CustomResourceDefinition.Get(ctx, c, "", job.Spec.Resource.Resource+"."+job.Spec.Resource.Group)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return d, err
}

// start notes that the migration runs, and up to which revision objects may be
// stored in another form.
func start(ctx context.Context, c *control.Cluster, job *svmv1.StorageVersionMigration, d *apiextensionsv1.CustomResourceDefinition, r *api.Resource) (
	*svmv1.StorageVersionMigration, *apiextensionsv1.CustomResourceDefinition, error) {
	if migrated(job, svmv1.MigrationRunning) && job.Status.ResourceVersion != "" {
		return job, d, nil
	}
	var err error
	if d != nil {
		d, err = migrating(ctx, c, d, apiextensionsv1.ConditionTrue, "MigrationRunning", fmt.Sprintf("Migration %s is running", job.Name), "")
		if err != nil {
			return nil, nil, err
		}
	}
	resp, err := c.Handle(ctx, &api.Request{Verb: api.List, Resource: r, At: api.Version{Limit: 1}})
	if err != nil {
		return nil, nil, fmt.Errorf("find the revision to migrate to: %w", err)
	}
	job, err = control.SetStatus(ctx, c, storagemigration.StorageVersionMigration, job, func(s *svmv1.StorageVersionMigration) {
		if s.Status.ResourceVersion == "" {
			s.Status.ResourceVersion = strconv.FormatInt(resp.List.Revision, 10)
		}
		remark(c, s, svmv1.MigrationRunning, "MigrationRunning", "The migration is running")
	})
	return job, d, err
}

func remark(c *control.Cluster, s *svmv1.StorageVersionMigration, t svmv1.MigrationConditionType, reason, message string) {
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: string(t), Status: metav1.ConditionTrue, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy()})
}

// finish says how the migration ended, in the definition first.
func finish(ctx context.Context, c *control.Cluster, job *svmv1.StorageVersionMigration, d *apiextensionsv1.CustomResourceDefinition, failure error) error {
	if d != nil && apiextensions.Condition(d, apiextensionsv1.StorageMigrating) != nil {
		if err := settleDefinition(ctx, c, job, failure); err != nil {
			return err
		}
	}
	_, err := control.SetStatus(ctx, c, storagemigration.StorageVersionMigration, job, func(s *svmv1.StorageVersionMigration) {
		meta.RemoveStatusCondition(&s.Status.Conditions, string(svmv1.MigrationRunning))
		if failure != nil {
			remark(c, s, svmv1.MigrationFailed, "StorageVersionMigrationFailed", failure.Error())
		} else {
			remark(c, s, svmv1.MigrationSucceeded, "StorageVersionMigrationSucceeded", "")
		}
	})
	return ignoreNotFound(err)
}

// settleDefinition leaves the storage version alone in a definition's stored
// versions, if the definition is still the one that the migration began with.
func settleDefinition(ctx context.Context, c *control.Cluster, job *svmv1.StorageVersionMigration, failure error) error {
	d, err := definitionOf(ctx, c, job)
	if d == nil || err != nil {
		return err
	}
	began := apiextensions.Condition(d, apiextensionsv1.StorageMigrating)
	if began == nil || began.Status != apiextensionsv1.ConditionTrue {
		return nil
	}
	switch {
	case failure != nil:
		_, err = migrating(ctx, c, d, apiextensionsv1.ConditionFalse, "MigrationFailed", "The migration has failed", "")
	case began.ObservedGeneration != d.Generation:
		_, err = migrating(ctx, c, d, apiextensionsv1.ConditionFalse, "MigrationSucceeded",
			"The migration has succeeded but the stored versions have not been updated due to a generation mismatch", "")
	default:
		_, err = migrating(ctx, c, d, apiextensionsv1.ConditionFalse, "MigrationSucceeded",
			"The migration has succeeded and the stored versions have been updated", apiextensions.StorageVersion(d))
	}
	return ignoreNotFound(err)
}

// migrating writes the condition StorageMigrating, and the only stored version if it is given.
func migrating(ctx context.Context, c *control.Cluster, d *apiextensionsv1.CustomResourceDefinition, s apiextensionsv1.ConditionStatus, reason, message, stored string) (
	*apiextensionsv1.CustomResourceDefinition, error) {
	next := *d // the spec is shared: a write of the status leaves it alone
	next.Status = *d.Status.DeepCopy()
	apiextensions.SetCondition(&next, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.StorageMigrating, Status: s, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy(), ObservedGeneration: d.Generation})
	if stored != "" {
		next.Status.StoredVersions = []string{stored}
	}
	return apiextensions.CustomResourceDefinition.UpdateStatus(ctx, c, &next)
}

// page is how many objects are read at a time.
const page = 500

// rewriteAll writes the objects that are older than a revision once more, as
// they are. One that is gone or was written meanwhile needs it no more.
func rewriteAll(ctx context.Context, c *control.Cluster, r *api.Resource, upTo string) error {
	last, err := strconv.ParseInt(upTo, 10, 64)
	if err != nil {
		return fmt.Errorf("read the revision to migrate to: %w", err)
	}
	k := api.Untyped(r)
	for at := (api.Version{Limit: page}); ; {
		resp, err := c.Handle(ctx, &api.Request{Verb: api.List, Resource: r, At: at})
		if err != nil {
			return fmt.Errorf("list what is to be migrated: %w", err)
		}
		items := slices.DeleteFunc(slices.Clone(resp.List.Items), func(i *api.Item) bool { return i.Revision > last })
		err = c.Each(len(items), func(i int) error {
			_, err := k.Update(ctx, c, api.Clone(items[i].Object()))
			if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("write an object anew: %w", err)
		}
		if at.Continue = resp.List.Continue; at.Continue == "" {
			return nil
		}
	}
}

// final says whether trying again is of no use.
func final(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsRequestEntityTooLargeError(err)
}
